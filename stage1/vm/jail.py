# SPDX-License-Identifier: Apache-2.0
"""The jail of a VMM as a launch description for the program `jailer` (images/jailer/README.md): namespaces, ids,
Landlock rules, limits, and a root that has only the pod's files, the VMM and the files that the VMM loads.
docs/design/jail.md has the reasons.

Called by starter.ProcessVmm, and by launch_spec.py for rkt. It looks at which files the host has, and changes nothing.
What one VMM may change is: its scratch disk, the small file system HOME, and the volumes that are mounted below
`share/volumes`.
"""

import os
import resource
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stage1.errors import VmFailed
from stage1.linux.idmap import Extent
from stage1.vm import own_machine, programs
from stage1.vm.spec import HOME, TAP_FD, Share, VmSpec, VsockLink

HOME_BYTES = 1 << 20
HOSTNAME = "vmm"
NO_LIMIT = (1 << 64) - 1
THREADS = 1024
"""Of one VMM: vCPUs, devices, at most 64 for files of QEMU's, and as many as its guest has requests to 9p under way."""

# Access rights of landlock(7), as the kernel numbers them. A rule for a file takes no rights of directories.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE = 1 << 4 | 1 << 5
_MAKE = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12  # directories, files, sockets, fifos, links; never devices
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15

RUN_FILE = _EXECUTE | _READ
RUN = RUN_FILE | _LIST
READ_TREE = _READ | _LIST
CHANGE = _READ | _WRITE | _TRUNCATE
TREE = CHANGE | _LIST | _REMOVE | _MAKE | _REFER
DEVICE = CHANGE | _IOCTL

_SYSTEM = (
    *((path, _READ) for path in programs.LOADER_FILES),
    *((path, READ_TREE) for path in ("/sys/devices/system", "/sys/kernel/mm")),
)
# Numbers that Linux gives out: Documentation/admin-guide/devices.txt, and miscdevice.h for those of major 10.
_DEVICES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}
_CHANGED = ("containers", "journal", "apps", "status")
"""Directories below a share that is not read-only whose mounts may be written to. The last two are rkt's, of which
apps are among the layers (stage1/rkt/machine.py).
"""
_KVM, _VSOCK = {"kvm": (10, 232)}, {"vhost-vsock": (10, 241)}


class Place(NamedTuple):
    """A file or directory of the host that is shown at the same path, with what is mounted below it.

    `mapped`: with the owners that the VMM's user namespace gives to its files.
    """

    path: str
    writable: bool = False
    mapped: bool = False

    @property
    def letter(self) -> str:
        """The letter for the kind of place in the jailer's arguments."""
        return "rmwv"[self.mapped + 2 * self.writable]


class Launch(NamedTuple):
    """What is started, and what of it is not the VM's own. `handed` are the descriptors past the third that it gets.

    `filter` is a file with seccomp's instructions, or empty. With `dies_with_us` it is killed at the end of the thread
    that starts it. With `small_pages` its memory has no huge pages. `programs` are more files and directories that it
    runs, and `links` symbolic links with their targets.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    handed: Sequence[int] = ()
    filter: str = ""
    dies_with_us: bool = False
    small_pages: bool = False
    programs: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()


def describe(vm: VmSpec, launch: Launch) -> bytes:
    """Fields with a letter in front, each ended by a zero. The disks and directories of `vm` must exist.

    Raises VmFailed when one of them can't be shown, because the VMM is a script.
    """
    shown = [*places(vm), *(Place(path) for path in launch.programs)]
    # A VMM of rkt's image is started by the image's loader, with its libraries, which are among `programs`.
    needed = [] if launch.programs else programs.needed(vm.binary, vm.hypervisor)
    tops: dict[str, str] = {}
    seen = outermost(shown, tops)
    _check_script(vm, seen)
    loaded = {_without_top_link(one.path, tops): one.is_code for one in needed}
    own = {place.path for place in seen}
    fields = [
        vm.run_dir,
        *(f"a{word}" for word in launch.argv),
        *(f"e{name}={value}" for name, value in launch.env.items()),
        *_network(vm),
        *(f"g{path}" for path in vm.cgroups),
        *(f"c{one.inside} {one.outside} {one.length}" for one in vm.ids),
        *(f"{place.letter}{place.path}" for place in seen),
        *(f"r{path}" for path in loaded if path not in own),
        *(f"y{target}:{path}" for path, target in (*links(tops), *_of_program(vm, tops), *_of_own(vm), *launch.links)),
        *(f"d{major}:{minor}:/dev/{name}" for name, (major, minor) in devices(vm).items()),
        f"h{HOME_BYTES}:{HOME}",
        *(f"s{rights:x}:{path}" for path, rights in (*rules(vm), *_more(launch))),
        *(f"s{RUN_FILE if code else _READ:x}:{path}" for path, code in loaded.items()),
        *(f"l{number} {soft} {hard}" for number, soft, hard in limits()),
        *(f"k{number}" for number in launch.handed),
        *([f"f{launch.filter}"] if launch.filter else []),
        f"u{HOSTNAME}",
        *(["p"] if launch.dies_with_us else []),
        *(["b"] if launch.small_pages else []),
    ]
    return b"".join(os.fsencode(word) + b"\0" for word in fields)


def _check_script(vm: VmSpec, seen: Sequence[Place]) -> None:
    """Raise VmFailed when a directory of the pod lies in one that the jail shows whole, as its owner has it."""
    for place in seen:
        above = programs.above(place.path) if place.writable or place.mapped else ""
        if above and programs.is_script(vm.binary):
            raise VmFailed(
                f"{place.path} can't be in the jail of {vm.binary}, which is a script: its jail has all of {above}; "
                "name the program that it starts as the hypervisor, or move the directory"
            )


def _of_program(vm: VmSpec, tops: dict[str, str]) -> list[tuple[str, str]]:
    """The name by which the VMM is started, where that is a link: QEMU looks for its files beside the real one."""
    named, real = _without_top_link(vm.binary, tops), os.path.realpath(vm.binary)
    return [(named, real)] if named != real else []


def _of_own(vm: VmSpec) -> list[tuple[str, str]]:
    """Links to a kernel out of an image and what belongs to it."""
    if not vm.own:
        return []

    return [*own_machine.links(vm).items()]


def describe_copy(described: bytes, vm: VmSpec, *, launch: Launch) -> bytes:
    """The jail for the same VM as a copy of a template, without checking all files again: `described` is the result
    of `describe` for the one that boots.
    """
    assert vm.template
    kept = [field for field in described.split(b"\0")[:-1] if field[:1] not in (b"a", b"k")]
    fields = [
        *(f"a{word}" for word in launch.argv),
        *(f"k{number}" for number in launch.handed),
        f"s{_READ:x}:{vm.template.memory}",
    ]
    return b"".join(word + b"\0" for word in (*kept, *map(os.fsencode, fields)))


class Joined(NamedTuple):
    """The VMM `pid` whose namespaces the server of its volumes joins, and what both have: the pod's directory, cgroups,
    and ids.
    """

    pid: int
    run_dir: str
    cgroups: Sequence[str]
    ids: Sequence[Extent]


def describe_server(vmm: Joined, launch: Launch, *, root: str) -> bytes:
    """The jail of the server of the volumes that are mounted below `root`: it has a copy of the mounts of the VMM, and
    is in its other namespaces.
    """
    rights = [*((path, RUN_FILE) for path in launch.programs), (root, TREE), ("/proc", READ_TREE)]
    fields = [
        vmm.run_dir,
        f"j{vmm.pid}",
        "n",
        *(f"a{word}" for word in launch.argv),
        *(f"e{name}={value}" for name, value in launch.env.items()),
        *(f"g{path}" for path in vmm.cgroups),
        *(f"c{one.inside} {one.outside} {one.length}" for one in vmm.ids),
        *(f"s{right:x}:{path}" for path, right in rights),
        *(f"l{number} {soft} {hard}" for number, soft, hard in limits()),
        *(f"k{number}" for number in launch.handed),
        *([f"f{launch.filter}"] if launch.filter else []),
    ]
    return b"".join(os.fsencode(word) + b"\0" for word in fields)


def _more(launch: Launch) -> list[tuple[str, int]]:
    return [(path, RUN if os.path.isdir(path) else RUN_FILE) for path in launch.programs]


def _network(vm: VmSpec) -> list[str]:
    """A netns without devices when the pod has none; with devices but without a netns, that of who starts it."""
    taps = [f"t{TAP_FD + number}:{nic.tap}" for number, nic in enumerate(vm.nics)]
    return [f"n{vm.netns}", *taps] if vm.netns or not vm.nics else taps


def places(vm: VmSpec) -> list[Place]:
    """The files of the host that the VMM sees, but for those that its program loads."""
    files = [*_booted(vm), *_of_dax(vm)]
    return [
        *(Place(path) for path, _ in _SYSTEM),
        *(Place(path) for path, _ in _programs(vm)),
        *(Place(path) for path in (*files, *_preloaded(vm), *filter(None, [vm.volume_server]))),
        *([Place(vm.scratch, writable=True)] if vm.scratch else []),
        *([Place(vm.template.ram, writable=True)] if vm.template and vm.template.is_made else []),
        *(_shown(share, vm) for share in vm.shares),
    ]


def _shown(share: Share, vm: VmSpec) -> Place:
    """What the host writes there is only read; volumes are mounted above it later. A share elsewhere is as it says."""
    top = f"{vm.run_dir}/share"
    if share.path.startswith(f"{top}/"):
        return Place(top, mapped=True)  # one mount, so that images that the host mounts below it later are seen
    return Place(share.path, writable=not share.read_only, mapped=True)


def rules(vm: VmSpec) -> list[tuple[str, int]]:
    """Paths, with the rights that it has there: no more than the mounts allow anyway, in case that one is wrong."""
    shares = [(share.path, TREE if _shown(share, vm).writable else READ_TREE) for share in vm.shares]
    writable = [share.path for share in vm.shares if not share.read_only]
    volumes = [(f"{path}/{name}", TREE) for path in writable for name in _CHANGED]
    return [
        *_SYSTEM,
        *_programs(vm),
        *((path, _READ) for path in _booted(vm)),
        *((path, RUN_FILE) for path in _preloaded(vm)),
        *((path, RUN_FILE if vm.dax and path == vm.dax.library else _READ) for path in _of_dax(vm)),
        *([(vm.scratch, CHANGE)] if vm.scratch else []),
        *([(vm.template.memory, CHANGE if vm.template.is_made else _READ)] if vm.template else []),
        *shares,
        *volumes,
        *((f"/dev/{name}", DEVICE) for name in devices(vm)),
        ("/proc", READ_TREE),
        (HOME, TREE),
    ]


def devices(vm: VmSpec) -> dict[str, tuple[int, int]]:
    """Names in /dev, with major and minor number."""
    return _DEVICES | (_KVM if vm.accel == "kvm" else {}) | (_VSOCK if isinstance(vm.link, VsockLink) else {})


def limits() -> list[tuple[int, int, int]]:
    """Number, soft and hard limit, of setrlimit(2).

    No core file, which would hold a guest's memory; as many open files as it can have, since 9p opens many. Not the
    size of files: that of the disk and of volumes is not the VMM's to bound.
    """
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = NO_LIMIT if files == resource.RLIM_INFINITY else files
    return [
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, files, files),
        (resource.RLIMIT_NPROC, THREADS, THREADS),
        (resource.RLIMIT_MEMLOCK, 1 << 16, 1 << 16),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ]


def outermost(candidates: Iterable[Place], tops: dict[str, str]) -> list[Place]:
    """Return the places that exist and are not inside another one, shorter paths first, without links at the top, which
    are added to `tops`.
    """
    kept: list[Place] = []
    straight = {place._replace(path=_without_top_link(place.path, tops)) for place in candidates}
    for place in sorted(straight, key=lambda one: (one.path.count("/"), one.path, not one.writable, not one.mapped)):
        if not _is_covered(place, kept) and os.path.exists(place.path):
            kept.append(place)
    return kept


def _is_covered(place: Place, kept: list[Place]) -> bool:
    above = [one for one in kept if f"{place.path}/".startswith(f"{one.path}/")]
    return any(one.writable >= place.writable and one.mapped >= place.mapped for one in above)


def links(tops: Mapping[str, str]) -> list[tuple[str, str]]:
    """Links at the top of the host's root that are to be there as well, with their targets, as /lib to usr/lib."""
    return [(top, os.readlink(top)) for top in sorted(tops) if os.path.islink(top)]


def _without_top_link(path: str, tops: dict[str, str]) -> str:
    """`path` with the target of its first directory, if that is a link; `tops` has those that are known."""
    _, name, *rest = path.split("/", 2)
    top = f"/{name}"
    if top not in tops:
        tops[top] = os.path.realpath(top)
    return "/".join((tops[top], *rest))


def _programs(vm: VmSpec) -> list[tuple[str, int]]:
    """The VMM; and where it is a script, all that it may start, of the system and beside it."""
    binary = os.path.realpath(vm.binary)
    if not programs.is_script(binary):
        return [(binary, RUN_FILE)]
    home = os.path.dirname(os.path.dirname(binary)).rstrip("/")
    adjacent = (f"{home}/{name}" for name in ("lib", "lib64", "share"))
    return [(binary, RUN_FILE), *((path, RUN) for path in (*programs.SYSTEM, *adjacent))]


def _booted(vm: VmSpec) -> list[str]:
    return [path for path in (vm.kernel, vm.initramfs, vm.system_image) if path]


def _preloaded(vm: VmSpec) -> list[str]:
    return [vm.preloaded] if vm.preloaded else []


def _of_dax(vm: VmSpec) -> list[str]:
    return [vm.dax.library, *(image.path for image in vm.dax.images)] if vm.dax else []
