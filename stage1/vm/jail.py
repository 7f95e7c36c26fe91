# SPDX-License-Identifier: Apache-2.0
"""Starts a VMM in namespaces of its own, with a root directory that has its files and the system's programs: no other
file of the host's, none of its sockets, and none of its mounts.

Called by starter.ProcessVmm with the places that `confine` allows. See docs/decisions/0110-the-jail.md. All of it
is done by a thread that is made for it, since a process begins where the thread is that starts it.
"""

import errno
import os
from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import libc, mount, namespace, process
from stage1.linux.libc import Guard
from stage1.vm.confine import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_APART = namespace.NEW_NS | namespace.NEW_PID | namespace.NEW_IPC | namespace.NEW_UTS


class Jail(NamedTuple):
    """`directory` is the pod's; the new root is made over it, unseen by others. `netns` empty: one without devices."""

    directory: str
    places: "tuple[Place, ...]"
    netns: str = ""


def start(jail: Jail, spawn: "Callable[[], int]", *, ends_with_us: bool = False) -> int:
    """What `spawn` returns, the pid of a process that it starts in `jail`. Raises what it raises; KernelError.

    With `ends_with_us` the thread stays until that process ends: a parent-death signal is sent at its end, not at ours.
    """

    def inside() -> int:
        _enter(jail)
        return spawn()

    return namespace.in_thread(inside, then=_wait if ends_with_us else None)


def _wait(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    with process.PidHandle(pid, fd) as handle:
        handle.see_end()


def _enter(jail: Jail) -> None:
    """For the calling thread, which can't come back. What it starts is the first process of a pid namespace."""
    if jail.netns:
        namespace.enter_net(jail.netns)
    namespace.unshare(_APART | (0 if jail.netns else namespace.NEW_NET))
    mount.set_propagation("/", mount.MS_SLAVE | mount.MS_REC)  # images that are mounted later still come in
    trees: list[tuple[Place, int]] = []
    try:
        for place in outermost(jail.places):
            trees.append((place, mount.open_tree(place.path)))
        mount.mount("clearpod", jail.directory, "tmpfs", mount.MS_NOSUID, "mode=0755")
        for place, fd in trees:
            _put(place, fd, root=jail.directory)
    finally:
        for _, fd in trees:
            os.close(fd)
    _take_links(jail.places, root=jail.directory)
    mount.set_read_only(jail.directory)
    _change_root(jail.directory)


def outermost(places: "Iterable[Place]") -> "list[Place]":
    """Those that exist and are not in another one anyway, the shorter paths first, without links at the top."""
    found: list[Place] = []
    straight = {Place(_without_top_link(place.path), place.writable) for place in places}
    for place in sorted(straight, key=lambda one: (one.path.count("/"), one.path, not one.writable)):
        covered = any(f"{place.path}/".startswith(f"{one.path}/") and one.writable >= place.writable for one in found)
        if not covered and os.path.exists(place.path):
            found.append(place)
    return found


def _without_top_link(path: str) -> str:
    _, top, *rest = path.split("/")
    return "/".join((os.path.realpath(f"/{top}"), *rest))


def _put(place: Place, fd: int, *, root: str) -> None:
    target = f"{root}{place.path}"
    if not os.path.lexists(target):
        _make(target, is_directory=os.path.isdir(f"/proc/self/fd/{fd}"))
    mount.move_tree(fd, target)
    if not place.writable:
        mount.set_read_only(target, recursive=True)


def _make(path: str, *, is_directory: bool) -> None:
    with Guard("make", path):
        os.makedirs(path if is_directory else os.path.dirname(path), 0o755, exist_ok=True)
        if not is_directory:
            # Not opened: what another thread starts just now would have it open for writing as well, until its exec,
            # and such a file system can't be made read-only (EBUSY).
            os.mknod(path, 0o644)


def _take_links(places: "Sequence[Place]", *, root: str) -> None:
    """As /lib is one to usr/lib."""
    for top in sorted({f"/{place.path.split('/')[1]}" for place in places}):
        if os.path.islink(top):
            with Guard("make", f"{root}{top}"):
                os.symlink(os.readlink(top), f"{root}{top}")


def _change_root(directory: str) -> None:
    """`directory` is the root from now on, and nothing of the old one is mounted any more."""
    with Guard("chdir", directory):
        os.chdir(directory)
    try:
        libc.syscall("pivot_root", libc.NR_PIVOT_ROOT, b".", b".", what=directory)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        _cover_root(directory)
    else:
        mount.umount(".", lazy=True)
    os.chdir("/")


def _cover_root(directory: str) -> None:
    """The host's root is its initramfs, which can't be put elsewhere."""
    mount.mount(directory, "/", "", mount.MS_MOVE)
    with Guard("chroot", directory):
        os.chroot(".")
