# SPDX-License-Identifier: Apache-2.0
"""What clearpod knows of one hypervisor. Each driver (`kvmtool.py`, `qemu.py`) makes one, `hypervisors.py` lists them,
`Choice` and `VmSpec` carry one; all other code uses it, and does not ask for a name. No I/O here. A plain class, not a
NamedTuple, which costs rkt's `run` a hundredth of its time.
"""

from stage1.errors import VmFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stage1.linux.host import Program
    from stage1.linux.process import PidHandle
    from stage1.vm.spec import VmSpec


class Hypervisor:
    """One hypervisor. `name` stands in the configuration and in logs, `title` in sentences; `kernel` and `filter` are
    files of the guest's directory: the kernel that it boots, and its allow-list of system calls. What raises
    NotImplementedError here each driver defines.
    """

    name = title = kernel = filter = ""
    uses_vsock = False
    """The agent's link is a vsock connection; else it is a virtio-serial port."""
    can_emulate = False
    """It runs guests without hardware virtualisation too."""
    can_confine_itself = False
    """It can forbid itself system calls, if it was built so (`Choice.sandbox`)."""
    shim = ""
    """The file of the guest's directory that is preloaded into it, to map images into its guests' memory by DAX, also
    into a window there while the guest runs; empty when it has no DAX.
    """
    memory_shim = ""
    """The file of the guest's directory that is preloaded into it for a guest that is a copy of a template, which then
    gives memory back; empty when it needs none.
    """
    has_balloon = False
    """Whether memory that a guest frees is returned to the host."""
    has_templates = False
    """It can save a guest, and begin many as copies of that (template.py)."""
    tells_files_apart = False
    """Its 9p server gives files of several file systems numbers of their own, though their inodes have the same."""
    user_namespaces_lack = ""
    """Why its pods can't have user namespaces, and what to do; empty when they can."""
    boots_all_kernels = False
    """It boots kernels of all formats of `pod.kernel_image` on all machines of `pod.own_kernel`; else a bzImage, on a
    machine with PCI."""
    opens_console = False
    """With a console for the apps, it writes the kernel's to a descriptor of its own."""
    firmware: tuple[str, ...] = ()
    """Files that it reads from its data directories, which it lists with `-L help`."""
    modules: tuple[str, ...] = ()
    """Files with code that it may load from directories beside its own, as far as it was built with modules."""
    needs_terminal = False
    """It reads no standard input but a terminal's."""

    def find(self) -> "Program":
        """Return the hypervisor's program on this host."""
        raise NotImplementedError

    def is_program(self, name: str) -> bool:
        """Whether a file of this name is its program: by which an unrecorded VMM is recognised."""
        raise NotImplementedError

    def argv(self, vm: "VmSpec") -> list[str]:
        """The whole command line. Raises BadRequest when the VM has what it can't do, such as too many devices."""
        raise NotImplementedError

    def environment(self, vm: "VmSpec") -> dict[str, str]:
        """The VMM's environment, the least there is."""
        raise NotImplementedError

    def listener(self, vm: "VmSpec") -> tuple[str, bool] | None:
        """The unix socket at which the VMM is reached, and whether it is one of packets; None when there is none."""
        raise NotImplementedError

    def has_ended(self, handle: "PidHandle", watch_s: float) -> bool:
        """The startup check (startup.py): whether the VMM ends before it can run a guest. One that can't be seen to
        have got that far is watched for so many seconds.
        """
        raise NotImplementedError

    def explain(self, binary: str, output: str, *, sentence: str) -> VmFailed:
        """The error for a VMM that ended at once: of the program `binary`, which wrote `output`. `sentence` is what is
        known without parsing that.
        """
        return VmFailed(sentence)
