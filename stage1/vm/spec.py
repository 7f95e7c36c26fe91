# SPDX-License-Identifier: Apache-2.0
"""The description of a VM, as data. Made by the engine, read by the hypervisors' drivers and by `host.py`. No I/O
here. Paths are absolute host paths without commas (both VMMs split their options there; `check` refuses others).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stage1.errors import BadRequest, VmFailed
from stage1.linux.host import Program
from stage1.linux.idmap import Extent
from stage1.linux.process import PidHandle
from stage1.pod.network import PodNetwork
from stage1.vm.template import Template

HOME = "/vmm"
"""The directory in the jail for a small file system of the VMM's own."""
LISTENER_FD, CONSOLE_FD, MONITOR_FD, QMP_FD, VOLUMES_FD, TAP_FD = 10, 11, 12, 14, 15, 16
"""Descriptors of a VMM in its jail: the socket at which it is reached, console.log if it opens that, the socket of its
monitor if that stays open, that of the port for volumes, its first tap."""
QMP, VOLUMES = "qmp.sock", "fuse.sock"
"""These two sockets, in the pod's directory."""


class Share(NamedTuple):
    """A directory exported to the guest by virtio-9p under `tag`."""

    tag: str
    path: str
    read_only: bool


class Nic(NamedTuple):
    """A virtio-net device on the host's tap device `tap`."""

    tap: str
    mac: str


def nics(network: PodNetwork | None) -> tuple[Nic, ...]:
    """The devices of a VM in that network; none without one."""
    return tuple(Nic(one.tap, one.mac) for one in network.interfaces) if network else ()


class SerialLink(NamedTuple):
    """The agent's link as a virtio-serial port; the VMM listens on the unix socket `socket`."""

    socket: str


class VsockLink(NamedTuple):
    """The agent's link as a vsock connection from guest `cid` to `port` of the host."""

    cid: int
    port: int


Link = SerialLink | VsockLink
"""How the agent is connected."""


class DaxImage(NamedTuple):
    """A file of `size` bytes (whole pages) whose page cache the guest reads in place."""

    path: str
    size: int


class Dax(NamedTuple):
    """The DAX settings of a VMM: its preloaded `library`, and the mapped files; the first of `images` is the system
    image. With `window_bytes` there is a window too, which is filled through the unix socket `socket`.
    """

    library: str
    images: tuple[DaxImage, ...]
    window_bytes: int = 0
    socket: str = ""


class Features(NamedTuple):
    """The features of a kernel's machine: the device for its exit code, devices of virtio 1.0 only, a second monitor
    at a descriptor of its launcher.
    """

    has_debug_exit: bool = False
    is_modern: bool = False
    has_launcher: bool = False


_PLAIN = Features()


class OwnMachine:
    """What a VM is that boots a kernel out of an image, and no guest of ours: `kernel` and `initramfs` of the VM are
    that image's, `scratch` is its block image, and there is no link.

    `machine` is one of `pod.own_kernel`; `command_line` is whole. What its serial port says is appended to the file
    `serial`, and QEMU is reached at the unix socket `monitor`. It begins when a monitor is told to (`BEGIN`).
    """

    def __init__(
        self, machine: str, command_line: str, *, serial: str, monitor: str, features: Features = _PLAIN
    ) -> None:
        self.machine, self.command_line, self.serial, self.monitor = machine, command_line, serial, monitor
        self.features = features


class VmSpec(NamedTuple):
    """One VM. `memory_mib` (even under kvmtool) and `vcpus` are what the guest sees; `kernel_arguments` end
    the kernel command line.

    `sandbox`: the VMM shall forbid itself the system calls that it does not need, if it is one that can.
    """

    name: str
    hypervisor: Hypervisor
    binary: str
    run_dir: str
    kernel: str
    initramfs: str
    system_image: str
    memory_mib: int
    vcpus: int
    link: SerialLink | VsockLink
    shares: tuple[Share, ...] = ()
    scratch: str = ""
    is_scratch_kept: bool = False
    """The VMM must not return blocks of `scratch` that the guest frees: they were allocated for this guest."""
    is_scratch_lasting: bool = False
    """`scratch` outlives the VM, so what the guest flushes has to be on the host's disk."""
    is_scratch_parted: bool = False
    """The writable layers are on the first partition of `scratch`, and not on all of it."""
    nics: tuple[Nic, ...] = ()
    accel: str = "tcg"
    has_rdrand: bool = False
    """The guest's processor gives random numbers; the host adds its own before the first container."""
    kernel_arguments: tuple[str, ...] = ()
    dax: Dax | None = None
    sandbox: bool = False
    console_attached: bool = False
    """The pod is autonomous (docs/dev/link.md): the VMM's standard input and output are the console of its apps."""
    netns: str = ""
    """The file that keeps the netns with the taps; empty: they are in ours."""
    cgroups: tuple[str, ...] = ()
    """Directories of cgroups that exist and have their limits: the VMM is to be in each. None: it stays in ours."""
    ids: tuple[Extent, ...] = ()
    """The uid_map and gid_map of the VMM's own user namespace, of which it is 0. None: it stays in ours."""
    jailer: str = ""
    """The program that starts it; empty where rkt's launcher does it."""
    filter: str = ""
    """The file with its allow-list of system calls (struct sock_filter[]); empty for tests, whose VMM is a script."""
    is_stock: bool = False
    """The kernel is a distribution's: it finds its devices on PCI only, and has images as disks or shares."""
    own: OwnMachine | None = None
    """The kernel of an image, if the pod boots one."""
    template: Template | None = None
    """The template that it is made for, or a copy of; None: it boots."""
    memory_shim: str = ""
    """The library that is preloaded into it if it is a copy, so that it can give back what its guest frees, or a guest
    is loaded into it; empty: it keeps that.
    """
    window_bytes: int = 0
    """It has a disk of this size for images, which are put there while it runs (medium.py), and a monitor at QMP."""
    is_resumed: bool = False
    """It begins stopped and empty, for a guest that was suspended (suspended.py)."""
    volume_server: str = ""
    """The program that serves volumes of the host (volume_server.py); empty: they are on the shares."""

    @property
    def preloaded(self) -> str:
        """The library that is preloaded into it; empty when none is."""
        return self.memory_shim if self.is_resumed or (self.template and not self.template.is_made) else ""

    @property
    def has_volumes_port(self) -> bool:
        """Whether it has a virtio-serial port for volumes of the host, which come by vsock else."""
        return bool(self.volume_server) and isinstance(self.link, SerialLink)


def check(vm: VmSpec) -> None:
    """Raise BadRequest when a value could be read by a VMM as something else."""
    paths = [vm.run_dir, vm.kernel, vm.initramfs, vm.system_image, vm.scratch, *(s.path for s in vm.shares)]
    if vm.template:
        paths.append(vm.template.directory)
    if vm.dax:
        paths += [vm.dax.socket, *(image.path for image in vm.dax.images)]
        _check_library(vm.dax.library)
    if vm.memory_shim:
        _check_library(vm.memory_shim)
    check_paths(paths)
    for one in vm.kernel_arguments:
        if any(c.isspace() or c in "\"'" for c in one):
            raise BadRequest(f"{one!r} can't be an argument of a kernel: it must have no spaces and no quotes")


def check_paths(paths: Iterable[str]) -> None:
    """Raise BadRequest unless each, if it is not empty, is absolute and without a comma."""
    for path in paths:
        if path and (not path.startswith("/") or "," in path):
            raise BadRequest(f"{path!r} can't be passed to a VMM: it must be absolute and without a comma")


def can_be_preloaded(path: str) -> bool:
    """Whether the dynamic loader takes the path, which splits LD_PRELOAD, and has no quotes."""
    return path.startswith("/") and not any(c.isspace() or c == ":" for c in path)


def _check_library(path: str) -> None:
    if not can_be_preloaded(path):
        raise BadRequest(f"{path!r} can't be preloaded: it must be absolute and without colons and spaces")


# -- What a driver is --------------------------------------------------------------------------------------------------


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

    def find(self) -> Program:
        """Return the hypervisor's program on this host."""
        raise NotImplementedError

    def is_program(self, name: str) -> bool:
        """Whether a file of this name is its program: by which an unrecorded VMM is recognised."""
        raise NotImplementedError

    def argv(self, vm: VmSpec) -> list[str]:
        """The whole command line. Raises BadRequest when the VM has what it can't do, such as too many devices."""
        raise NotImplementedError

    def environment(self, vm: VmSpec) -> dict[str, str]:
        """The VMM's environment, the least there is."""
        raise NotImplementedError

    def listener(self, vm: VmSpec) -> tuple[str, bool] | None:
        """The unix socket at which the VMM is reached, and whether it is one of packets; None when there is none."""
        raise NotImplementedError

    def has_ended(self, handle: PidHandle, watch_s: float) -> bool:
        """The startup check (startup.py): whether the VMM ends before it can run a guest. One that can't be seen to
        have got that far is watched for so many seconds.
        """
        raise NotImplementedError

    def explain(self, binary: str, output: str, *, sentence: str) -> VmFailed:
        """The error for a VMM that ended at once: of the program `binary`, which wrote `output`. `sentence` is what is
        known without parsing that.
        """
        return VmFailed(sentence)
