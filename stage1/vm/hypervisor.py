# SPDX-License-Identifier: Apache-2.0
"""What clearpod knows of one hypervisor, as a record. Filled in by its driver (`kvmtool.py`, `qemu.py`), listed in
`hypervisors.py`, carried by `Choice` and `VmSpec`; everybody else asks the record, and nobody asks for a name. No I/O.
"""

from typing import NamedTuple, Protocol

from stage1.errors import VmFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stage1.linux.host import Program
    from stage1.linux.process import PidHandle
    from stage1.vm.spec import VmSpec


class Listener(NamedTuple):
    """The unix socket at which a VMM is reached; it is made for it, and is one of packets or a stream."""

    path: str
    is_packets: bool


class Explain(Protocol):
    """Makes the error for a VMM that ended at once: of the program `binary`, which wrote `output`. `sentence` says
    what is known without understanding that.
    """

    def __call__(self, binary: str, output: str, *, sentence: str) -> VmFailed:
        """The error; it raises nothing."""
        ...


def no_explanation(binary: str, output: str, *, sentence: str) -> VmFailed:
    """For a program whose output is not understood."""
    return VmFailed(sentence)


class Hypervisor(NamedTuple):
    """One hypervisor. `name` stands in the configuration and in logs, `title` in sentences; `kernel` and `filter` are
    files of the guest's directory: the kernel that it boots, and its allow-list of system calls.
    """

    name: str
    title: str
    kernel: str
    filter: str
    find: "Callable[[], Program]"
    """Looks for its program on this host."""
    is_program: "Callable[[str], bool]"
    """Whether a file of this name is its program: that is how a VMM that nobody wrote down is recognised."""
    argv: "Callable[[VmSpec], list[str]]"
    """The whole command line. Raises BadRequest when the VM has what it can't do, such as too many devices."""
    environment: "Callable[[VmSpec], dict[str, str]]"
    listener: "Callable[[VmSpec], Listener | None]"
    """Where the VMM is reached; None when it is nowhere."""
    has_ended: "Callable[[PidHandle, float], bool]"
    """The startup check (startup.py): whether the VMM ends before it can run a guest. One that can't be seen to have
    got that far is watched for the given seconds.
    """
    explain: Explain = no_explanation
    uses_vsock: bool = False
    """The agent's link is a vsock connection; else it is a virtio-serial port."""
    can_emulate: bool = False
    """It runs guests without hardware virtualisation too."""
    can_confine_itself: bool = False
    """It can forbid itself system calls, if it was built so (`Choice.sandbox`)."""
    shim: str = ""
    """The file of the guest's directory that is preloaded into it, to map images into its guests' memory by DAX, also
    into a window there while the guest runs; empty when it has no DAX.
    """
    has_balloon: bool = False
    """What a guest frees goes back to the host."""
    tells_files_apart: bool = False
    """Its 9p server gives files of several file systems numbers of their own, though their inodes have the same."""
    user_namespaces_lack: str = ""
    """Why its pods can't have user namespaces, and what to do; empty when they can."""
    opens_console: bool = False
    """With a console for the apps, it writes the kernel's to a descriptor of its own."""
    needs_terminal: bool = False
    """It reads no standard input but a terminal's."""
