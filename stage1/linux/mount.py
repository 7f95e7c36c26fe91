# SPDX-License-Identifier: Apache-2.0
"""Mounts: make, bind, change, remove, list. Called by the engine and rootfs. Never decides what to mount.

Paths are the host's own; what lies where a guest can write is opened by `beneath` first and given as that descriptor.
See mount(2), mount_setattr(2), proc_pid_mountinfo(5).
"""

import _thread
import os
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from stage1.errors import PodError
from stage1.linux import libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC = 0x1000, 0x4000
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20

_MOUNTS = "/proc/thread-self/mountinfo"
_place = _thread._local()
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MOUNT_ATTR_RDONLY = 1
_AT_RECURSIVE = 0x8000
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
_STATX_MNT_ID_UNIQUE, _STATX_MNT_ID_AT, _STATX_BYTES = 0x4000, 0x90, 256
_STATX_ATTRIBUTES_AT, _STATX_MOUNT_ROOT = (8, 56), 0x2000
_STATMOUNT_MNT_BASIC, _STATMOUNT_PROPAGATION_AT, _STATMOUNT_BYTES = 2, 72, 512
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2). `flags` are MS_*, `data` the file system's own options. Raises KernelError, NoSpace."""
    what = f"{fstype or 'mount'} {source} on {target} flags={flags:#x}" + (f" options {data}" if data else "")
    args = (_path(source), _path(target), _path(fstype) or None, flags, _path(data) or None)
    libc.call("mount", *args, what=what)


def bind(source: str, target: str, *, recursive: bool = False, read_only: bool = False) -> None:
    """Show `source` at `target`, with the mounts below it when `recursive`; rolled back if this raises."""
    flags = MS_BIND | (MS_REC if recursive else 0)
    libc.call("mount", _path(source), _path(target), None, flags, None, what=f"bind {source} on {target}")
    if not read_only:
        return
    try:
        set_read_only(target, recursive=recursive)
    except PodError:
        umount(target, lazy=True)
        raise


def new(fstype: str, flags: int, options: Sequence[tuple[str, str]]) -> int:
    """A descriptor of a new file system that is mounted nowhere, for `move_tree`; see fsopen(2).

    `flags` are MS_RDONLY, _NOSUID, _NODEV, _NOEXEC; an option without a value is empty. Raises KernelError.
    """
    what = f"{fstype} flags={flags:#x} options {','.join('='.join(one) for one in options)}"
    context = libc.syscall("fsopen", libc.NR_FSOPEN, _path(fstype), _FSOPEN_CLOEXEC, what=what)
    try:
        for key, value in options:
            kind, word = (_FSCONFIG_SET_STRING, _path(value)) if value else (_FSCONFIG_SET_FLAG, None)
            libc.syscall("fsconfig", libc.NR_FSCONFIG, context, kind, _path(key), word, 0, what=what)
        libc.syscall("fsconfig", libc.NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0, what=what)
        return libc.syscall("fsmount", libc.NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, flags, what=what)
    finally:
        os.close(context)


def open_tree(source: str | int, *, recursive: bool = True) -> int:
    """A descriptor of a copy of the mounts at and below `source` that is mounted nowhere; see open_tree(2).

    `source` is a path, or a descriptor, also one of O_PATH. The copy ends with its descriptor unless `move_tree` has
    put it somewhere. Without `recursive`, what is mounted below is not in the copy.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    what = f"{source} flags={flags:#x}"
    if isinstance(source, int):
        return libc.syscall("open_tree", libc.NR_OPEN_TREE, source, b"", flags | _AT_EMPTY_PATH, what=what)
    return libc.syscall("open_tree", libc.NR_OPEN_TREE, libc.AT_FDCWD, _path(source), flags, what=what)


def move_tree(fd: int, target: str | int) -> None:
    """Mount what `open_tree` gave, in any mount namespace before, at `target` in that of the calling thread.

    The target is a path or a descriptor (O_PATH).
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (_MOVE_MOUNT_T_EMPTY_PATH if isinstance(target, int) else 0)
    args = (fd, b"", *_at(target), flags)
    libc.syscall("move_mount", libc.NR_MOVE_MOUNT, *args, what=f"descriptor {fd} to {target}")


def set_read_only(target: str | int, *, recursive: bool = False) -> None:
    """Make the mount at `target`, and those below if `recursive`, read-only: not the file system.

    The target is a path, or a descriptor of `open_tree`, mounted yet or not.
    """
    _set_attributes(target, "read-only", attributes=_MOUNT_ATTR_RDONLY, recursive=recursive)


def set_propagation(target: str | int, flag: int) -> None:
    """Make the mount at `target` MS_PRIVATE, _SLAVE, _SHARED or _UNBINDABLE (| MS_REC for those below).

    The target is a path, or a descriptor of `open_tree` that was mounted in the calling thread's namespace.
    """
    recursive, flag = bool(flag & MS_REC), flag & ~MS_REC
    _set_attributes(target, f"propagation {flag:#x}", propagation=flag, recursive=recursive)


def _set_attributes(
    target: str | int, what: str, *, attributes: int = 0, propagation: int = 0, recursive: bool = False
) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd. It changes every mount of the tree, which
    # MS_REMOUNT can't.
    attr = struct.pack("=QQQQ", attributes, 0, propagation, 0)
    flags = (_AT_RECURSIVE if recursive else 0) | (_AT_EMPTY_PATH if isinstance(target, int) else 0)
    args = (*_at(target), flags, attr, len(attr))
    libc.syscall("mount_setattr", libc.NR_MOUNT_SETATTR, *args, what=f"{what} {target} flags={flags:#x}")


def is_shared(fd: int) -> bool:
    """Whether the mount that the descriptor is on is shared: what is mounted below it appears in its other copies."""
    known = _propagation(fd)
    if known >= 0:
        return bool(known & MS_SHARED)
    own = number(fd)
    fields = next((line.split() for line in _lines(own + b" ") if line.split(b" ", 1)[0] == own), [])
    return any(one.startswith(b"shared:") for one in fields[6 : fields.index(b"-")]) if fields else False


def _propagation(fd: int) -> int:
    """The propagation of that mount, one of MS_*, from statmount(2): reading the table of all mounts takes longer the
    more pods there are. -1 before Linux 6.8.
    """
    status, answer = _statx(fd), bytearray(_STATMOUNT_BYTES)
    mask, number = struct.unpack_from("=I", status)[0], struct.unpack_from("=Q", status, _STATX_MNT_ID_AT)[0]
    asked = struct.pack("=IIQQ", 24, 0, number, _STATMOUNT_MNT_BASIC)
    if not mask & _STATX_MNT_ID_UNIQUE:
        return -1
    if libc.try_syscall(libc.NR_STATMOUNT, asked, libc.address(answer), len(answer), 0) < 0:
        return -1
    return int(struct.unpack_from("=Q", answer, _STATMOUNT_PROPAGATION_AT)[0])


def _statx(fd: int) -> bytearray:
    """What statx(2) answers about the descriptor; zeros if it can't."""
    status = bytearray(_STATX_BYTES)
    libc.try_call("statx", fd, b"", _AT_EMPTY_PATH, _STATX_MNT_ID_UNIQUE, libc.address(status))
    return status


def umount(target: str, *, lazy: bool = False) -> None:
    """Remove the topmost mount at `target`; `lazy` also one in use. Raises KernelError (EINVAL: no mount)."""
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    libc.call("umount2", _path(target), flags, what=f"{target} flags={flags:#x}")


def is_mount_point(path: str, *, below: str = "") -> bool:
    """Whether something, a bind of the same file system included, is mounted exactly at `path`.

    With `below`, at that path below it, in which no link is followed.
    """
    point = _joined(path, below)
    return point in _points(point)


def is_mounted(path: str) -> bool:
    """Whether what is at `path` is a mount's root: `is_mount_point` for a path of ours, where nothing is mounted above
    it. The kernel is asked about it alone, since the table of all mounts takes longer the more pods there are.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        has, known = (struct.unpack_from("=Q", _statx(fd), at)[0] for at in _STATX_ATTRIBUTES_AT)
    finally:
        os.close(fd)
    return bool(has & _STATX_MOUNT_ROOT) if known & _STATX_MOUNT_ROOT else is_mount_point(path)


def mounts_below(path: str, *, below: str = "") -> list[str]:
    """Mount points at and below `path`, deepest first, so that unmounting in this order works.

    A point with several mounts on top of each other is listed once for each. With `below`, those at and below that path
    below it, in which no link is followed.
    """
    root = _joined(path, below)
    prefix = root.rstrip("/") + "/"
    points = [p for p in _points(root) if p == root or p.startswith(prefix)]
    return sorted(points, key=lambda p: p.count("/"), reverse=True)


def number_at(path: str) -> bytes:
    """The number, in the table of mounts, of the mount that `path` is on. Raises KernelError."""
    with libc.Guard("open", path):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return number(fd)
    finally:
        os.close(fd)


def number(fd: int) -> bytes:
    """The number of the mount that the descriptor is on, as the table of mounts has it."""
    with open(f"/proc/thread-self/fdinfo/{fd}", "rb") as file:
        return next((line.split()[1] for line in file if line.startswith(b"mnt_id:")), b"")


def file_systems_below(path: str, *, below: str = "") -> dict[str, tuple[str, str]]:
    """The mounts below `path`, not at it, by relative path: the device's numbers, and the directory that is the
    mount's root. Of several at one place the last one counts. `below` is as for `mounts_below`.
    """
    prefix = _joined(path, below).rstrip("/") + "/"
    with open_table() as file:
        fields = [line.split(b" ", 5) for line in file]
    mounts = {unescape(line[4]): (line[2].decode(), unescape(line[3])) for line in fields}
    return {point.removeprefix(prefix): what for point, what in mounts.items() if point.startswith(prefix)}


def _joined(path: str, below: str) -> str:
    root = os.path.realpath(path)
    return f"{root.rstrip('/')}/{below}" if below else root


def type_of(path: str) -> str:
    """The type of the file system that `path` is on, as in mount(8); empty when it can't be found."""
    number = number_at(path)
    line = next((line for line in _lines(number + b" ") if line.split(b" ", 1)[0] == number), b"")
    return line.partition(b" - ")[2].split(b" ", 1)[0].decode()


def overlay_options(path: str) -> dict[str, str] | None:
    """The options of the overlay that is mounted at `path`, the topmost one; None when there is no overlay there."""
    point = _escape(path)
    lines = (line.split() for line in _lines(b" " + point + b" "))
    mounts = [line[line.index(b"-") + 1 :] for line in lines if line[4] == point]
    if not mounts or mounts[-1][0] != b"overlay":
        return None
    options = (option.partition(b"=") for option in mounts[-1][2].split(b","))
    return {name.decode(): unescape(value) for name, _, value in options}


def size_of(path: str) -> int:
    """The bytes of the file system that `path` is on; 0 for a tmpfs without a limit."""
    size = os.statvfs(path)
    return size.f_blocks * size.f_frsize


def memory_bytes(below: str) -> int:
    """The total size of the writable tmpfs mounted below the path `below`, each counted once. One without a size
    counts as the whole memory of the host.
    """
    with open_table() as file:
        lines = [line.split() for line in file]
    sizes = {}
    for line in lines:
        path = unescape(line[4])
        if path.startswith(below) and line[line.index(b"-") + 1] == b"tmpfs" and b"rw" in line[5].split(b","):
            sizes[line[2]] = size_of(path) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sum(sizes.values())


def keep_proc(fd: int) -> None:
    """The calling thread's directory in /proc, opened before it goes to mounts in whose /proc it is not."""
    _place.proc = fd


def open_table() -> BinaryIO:
    """The table of all mounts, to be read: the calling thread's, which may be in a mount namespace of its own
    (`namespace.in_mounts_of`). Raises KernelError.
    """
    with libc.Guard("read", _MOUNTS):
        proc = getattr(_place, "proc", -1)
        fd = os.open(
            "mountinfo" if proc >= 0 else _MOUNTS, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc if proc >= 0 else None
        )
        return open(fd, "rb")


def _points(path: str) -> list[str]:
    """The mount points whose paths begin with `path`."""
    return [unescape(line.split(b" ", 5)[4]) for line in _lines(b" " + _escape(path))]


def _lines(part: bytes) -> Iterator[bytes]:
    """The lines with `part` in them. A node has thousands of others, which no Python looks into."""
    with open_table() as file:
        text = file.read()
    at = text.find(part)
    while at >= 0:
        end = text.find(b"\n", at)
        yield text[text.rfind(b"\n", 0, at) + 1 : end]
        at = text.find(part, end)


def _escape(path: str) -> bytes:
    """The path as the kernel writes it in mountinfo: backslash, space, tab and newline are octal escapes."""
    field = _path(path)
    for byte in b"\\ \t\n":
        field = field.replace(bytes((byte,)), b"\\%03o" % byte)
    return field


def unescape(field: bytes | str) -> str:
    """A path as proc_pid_mountinfo(5) has it."""
    field = os.fsencode(field) if isinstance(field, str) else field
    if b"\\" not in field:
        return os.fsdecode(field)
    # The kernel writes space, tab, newline and backslash as \ooo, so each backslash starts an octal escape.
    return os.fsdecode(field.decode("unicode_escape").encode("latin-1"))


def _at(target: str | int) -> tuple[int, bytes]:
    """The directory's descriptor and the path of a system call that takes both."""
    return (target, b"") if isinstance(target, int) else (libc.AT_FDCWD, _path(target))


def _path(text: str) -> bytes:
    return os.fsencode(text)
