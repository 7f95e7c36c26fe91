# SPDX-License-Identifier: Apache-2.0
"""Id-mapped mounts, and the user namespaces that hold their maps. See mount_setattr(2).

Called by the engine, rootfs and `clearpod jail`. It never decides which owners. A mount takes its mapping from a user
namespace: that of a running VMM (`of_process`), or one that is made for it and kept by name (`keep`). To make one needs
a process of its own, `unshare`: a thread can't enter a user namespace, and a fork of a process with threads may not run
Python.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from stage1.errors import KernelError, Unsupported, WrongState
from stage1.linux import libc, mount, process
from stage1.linux.libc import Guard

_MOUNT_ATTR_IDMAP = 0x00100000
_INERT = 0x2 | 0x4 | 0x8
"""MOUNT_ATTR_NOSUID, _NODEV, _NOEXEC."""
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_NS_GET_PARENT = 0xB702
_MOST = "/proc/sys/user/max_user_namespaces"
_REFUSALS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
"""EPERM: it is mapped already, or belongs to another user namespace."""


class OwnersRefused(Unsupported):
    """`is_below`: what can't be mapped is mounted below what was asked for, which could do without it."""

    is_below = False


class Extent(NamedTuple):
    """`length` users and groups: `inside` in the namespace (for a mount: on its disk), `outside` on the host."""

    inside: int
    outside: int
    length: int


def why_not() -> str:
    """The reason why this host can't map owners, and the remedy; empty when it can."""
    try:
        with open(_MOST, "rb") as file:
            if int(file.read()):
                return ""
    except OSError:
        return "this host's kernel has no user namespaces; use one with CONFIG_USER_NS"
    return f"this host allows no user namespaces; write a number to {_MOST}"


def outside(extents: Sequence[Extent], inside: int) -> int:
    """The host's id for the id `inside`. Raises ValueError when none is mapped to it."""
    for one in extents:
        if one.inside <= inside < one.inside + one.length:
            return one.outside + inside - one.inside
    raise ValueError(f"{inside} is not mapped by {extents}")


def read_map(pid: int | str, name: str = "uid_map") -> tuple[Extent, ...]:
    """The `uid_map` or `gid_map` of process `pid`, as seen from our own user namespace. Raises KernelError."""
    with Guard("read", f"/proc/{pid}/{name}"), open(f"/proc/{pid}/{name}", "rb") as file:
        lines = file.read().splitlines()
    return tuple(Extent(*map(int, line.split())) for line in lines)


def of_process(pid: int, start_time: int, extents: Sequence[Extent]) -> int:
    """A descriptor of the user namespace of the VMM `pid`, which must map as `extents` say. The caller closes it.

    A VMM that was taken over may be in a namespace that it made itself: one whose parent is not our own is refused.
    Raises WrongState when it is so, when the maps differ, and when the process has ended.
    """
    handle = process.open_process(pid, start_time)
    if handle is None:
        raise WrongState(f"the virtual machine (pid {pid}) has ended")
    with handle, Guard("open", f"the user namespace of process {pid}"):
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(pid, fd, extents)
            if not handle.alive():  # else all that was read may be of another process
                raise WrongState(f"the virtual machine (pid {pid}) has just ended")
        except BaseException:
            os.close(fd)
            raise
        return fd


def _check(pid: int, fd: int, extents: Sequence[Extent]) -> None:
    try:
        parent = fcntl.ioctl(fd, _NS_GET_PARENT)
    except PermissionError:
        raise WrongState(f"process {pid} is not in a user namespace of its own, as its VM should be") from None
    try:
        is_ours = os.path.samestat(os.fstat(parent), os.stat("/proc/self/ns/user"))
    finally:
        os.close(parent)
    maps = (read_map(pid), read_map(pid, "gid_map"))
    if not is_ours or maps != (tuple(extents), tuple(extents)):
        raise WrongState(f"process {pid} is in a user namespace with other ids than its VM was given: {maps[0]}")


def namespace(extents: Sequence[Extent]) -> int:
    """A descriptor of a user namespace that maps users and groups so, which lasts as long. Raises KernelError."""
    (read, write), (back, answer) = process.pipes(2, "for a user namespace")
    try:
        pid = process.spawn(["unshare", "--user", "cat"], stdin=read, stdout=answer, stderr=2)
        with process.hold(pid) as child:
            os.close(answer)
            answer = -1
            try:
                return _mapped(pid, extents, ends=(write, back))
            finally:
                os.close(write)
                write = -1
                if not child.wait(5):  # cat ends with its input
                    child.kill()
                    child.wait(5)
    finally:
        for fd in (read, write, back, answer):
            if fd >= 0:
                os.close(fd)


def _mapped(pid: int, extents: Sequence[Extent], *, ends: tuple[int, int]) -> int:
    os.write(ends[0], b"\n")
    with Guard("make", "a user namespace (unshare --user)"):
        if not os.read(ends[1], 1):  # cat has it, so unshare is done
            raise OSError(errno.EPERM, "unshare failed")
    text = "".join(f"{one.inside} {one.outside} {one.length}\n" for one in extents).encode()
    for name in ("uid_map", "gid_map"):
        path = f"/proc/{pid}/{name}"
        with Guard("write", path):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text)
            finally:
                os.close(fd)
    with Guard("open", f"/proc/{pid}/ns/user"):
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def keep(path: str, extents: Sequence[Extent]) -> None:
    """Make a user namespace with these ids and keep it at `path`, a new file, until that is unmounted.

    Raises KernelError; rolled back then.
    """
    fd = namespace(extents)
    try:
        with Guard("make", path):
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400))
        try:
            mount.bind(f"/proc/self/fd/{fd}", path)
        except BaseException:
            os.unlink(path)
            raise
    finally:
        os.close(fd)


def set_owners(tree: int, namespace: int, *, what: str) -> None:
    """Map the owners in `tree`, of `mount.open_tree` or `mount.make`, by a user namespace, before it is mounted.

    Nothing there acts on the host any more: no device opens, no program runs. `what` names it in errors. Raises
    Unsupported when its file system, or one mounted below it, can't do that (it is named, with its type); KernelError.
    """
    attr = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP | _INERT, 0, 0, namespace)
    args = (tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attr, len(attr))
    try:
        libc.syscall("mount_setattr", libc.NR_MOUNT_SETATTR, *args, what=f"owners of {what}")
    except KernelError as error:
        if error.errno not in _REFUSALS:
            raise
        raise _refusal(what, namespace, os.strerror(error.errno)) from None


def _refusal(what: str, namespace: int, why: str) -> Unsupported:
    if not what.startswith("/"):
        return Unsupported(f"{what} can't be an idmapped mount ({why}); use Linux 6.12 or newer")
    where, kind = _culprit(what, namespace)
    refusal = OwnersRefused(
        f"{where} can't be a volume, or below one: its file system, {kind}, has no idmapped mounts ({why}); put the "
        "data on ext4, xfs, btrfs or tmpfs"
    )
    refusal.is_below = where != what
    return refusal


def _culprit(what: str, namespace: int) -> tuple[str, str]:
    """The first of the mounts at and below `what` that refuses alone, and its type; looked up by name, for people."""
    mounts = [
        (what, mount.type_of(what)),
        *((path, mount.type_of(path)) for path in reversed(mount.mounts_below(what))),
    ]
    attr = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
    for path, kind in mounts:
        try:
            alone = mount.open_tree(path, recursive=False)
        except (KernelError, OSError):
            continue
        try:
            libc.syscall("mount_setattr", libc.NR_MOUNT_SETATTR, alone, b"", _AT_EMPTY_PATH, attr, len(attr), what=path)
        except KernelError:
            return path, kind
        finally:
            os.close(alone)
    return mounts[0]
