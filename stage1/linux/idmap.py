# SPDX-License-Identifier: Apache-2.0
"""Mounts whose files appear with other owners. Used by rootfs. Never decides which owners. See mount_setattr(2).

The mapping is that of a user namespace, which is made for it: `unshare` makes one, its only process waits until we have
its descriptor. A thread of ours can't make one, and a copy of ours without exec is none to run Python in.
"""

import errno
import os
import struct
from typing import NamedTuple

from stage1.errors import KernelError, Unsupported
from stage1.linux import libc, process
from stage1.linux.libc import Guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MOUNT_ATTR_IDMAP = 0x00100000
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_MOST = "/proc/sys/user/max_user_namespaces"


class Extent(NamedTuple):
    """`length` users and groups: `inside` on the file system, `outside` where it is mounted."""

    inside: int
    outside: int
    length: int


def why_not() -> str:
    """What keeps this host from mapping owners, and what to do; empty when nothing does."""
    try:
        with open(_MOST, "rb") as file:
            if int(file.read()):
                return ""
    except OSError:
        return "this host's kernel has no user namespaces; use one with CONFIG_USER_NS"
    return f"this host allows no user namespaces; write a number to {_MOST}"


def namespace(extents: "Sequence[Extent]") -> int:
    """A descriptor of a user namespace that maps users and groups so, which lasts as long. Raises KernelError."""
    with Guard("pipe2", "for a user namespace"):
        read, write = os.pipe2(os.O_CLOEXEC)
        back, answer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = process.spawn(["unshare", "--user", "cat"], stdin=read, stdout=answer, stderr=2)
        with process.PidHandle(pid, os.pidfd_open(pid)) as child:
            os.close(answer)
            answer = -1
            try:
                return _mapped(pid, extents, ends=(write, back))
            finally:
                child.kill()
                child.wait(5)
    finally:
        for fd in (read, write, back, answer):
            if fd >= 0:
                os.close(fd)


def _mapped(pid: int, extents: "Sequence[Extent]", *, ends: tuple[int, int]) -> int:
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


def set_owners(tree: int, extents: "Sequence[Extent]", *, what: str) -> None:
    """Map the owners in `tree`, of `mount.open_tree`, before it is mounted. `what` names it in errors.

    Raises Unsupported when its file system, or one mounted below it, can't do that; KernelError.
    """
    ids = namespace(extents)
    try:
        attr = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, ids)
        args = (tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attr, len(attr))
        libc.syscall("mount_setattr", libc.NR_MOUNT_SETATTR, *args, what=f"owners of {what}")
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise Unsupported(
            f"the owners of {what} can't be mapped for the pod's user namespace ({os.strerror(error.errno)}): "
            "its file system can't be mounted so; use another one, or hostUsers: true"
        ) from None
    finally:
        os.close(ids)
