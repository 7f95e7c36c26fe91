# SPDX-License-Identifier: Apache-2.0
"""Namespaces: leave, join, keep by name. Python 3.11 has no calls for it. Used by net, vm and tests.

A namespace belongs to a thread: all of this acts on the calling one only, and a process that it starts begins there.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from stage1.errors import KernelError
from stage1.linux import files, flock, libc, mount, mount_copies
from stage1.linux.libc import Guard

Result = TypeVar("Result")


NEW_NS = 0x00020000
NEW_NET = 0x40000000
_OWN_FS = 0x00000200
_NS_GET_USERNS = 0xB701
OWN_NET = "/proc/thread-self/ns/net"
"""The netns of the thread that looks."""


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces, NEW_* joined by |. Raises KernelError."""
    libc.call("unshare", flags, what=f"flags={flags:#x}")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace (or pidfd) `fd`; `kind` as in NEW_*, 0 for any."""
    libc.call("setns", fd, kind, what=f"descriptor {fd} kind={kind:#x}")


class _Home:
    """`with _Home():` the calling thread is back in its own netns afterwards."""

    def __enter__(self) -> None:
        with Guard("open", OWN_NET):
            self._fd = os.open(OWN_NET, os.O_RDONLY | os.O_CLOEXEC)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            setns(self._fd, NEW_NET)
        finally:
            os.close(self._fd)


class inside_net(_Home):
    """`with inside_net(path):` the calling thread is in the netns kept at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        super().__enter__()
        try:
            enter_net(self._path)
        except BaseException:
            os.close(self._fd)
            raise


def enter_net(path: str) -> None:
    """Move the calling thread into the netns kept at `path`. Raises KernelError."""
    with Guard("open", path):
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(there, NEW_NET)
    finally:
        os.close(there)


class inside_mounts_of:
    """`with inside_mounts_of(pid):` this process, which must have one thread only, has the mounts of another one.

    It keeps its working directory. Where the netns `net`, a path that keeps one here, is not kept there, since no
    mount reaches those mounts, it is from then on. Raises KernelError; NotFound when there is no such process.
    """

    def __init__(self, pid: int, *, net: str = "") -> None:
        self._pid, self._net = pid, net

    def __enter__(self) -> None:
        self._where = os.getcwd()
        with Guard("open", "the namespace of our mounts"):
            self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Guard("open", f"the mounts of process {self._pid}"):
                there = os.open(f"/proc/{self._pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._take_net(there) if self._net else self._go(there)
            finally:
                os.close(there)
        except BaseException:
            os.close(self._home)
            raise

    def _take_net(self, there: int) -> None:
        with Guard("open", self._net):
            net = os.open(self._net, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._go(there)
            try:
                if not is_net(self._net):
                    mount.bind(f"/proc/self/fd/{net}", self._net)
            except BaseException:
                self._go(self._home)
                raise
        finally:
            os.close(net)

    def __exit__(self, *_: object) -> None:
        try:
            self._go(self._home)
        finally:
            os.close(self._home)

    def _go(self, fd: int) -> None:
        setns(fd, NEW_NS)
        os.chdir(self._where)


def in_mounts_of(pid: int, function: Callable[[], Result]) -> Result:
    """What `function` returns, or raises, in the mount namespace of process `pid`.

    A thread of its own runs it, since a thread that went there can't come back. Where we are in that namespace
    already, it is just called. The caller makes sure that `pid` is who it should be. Raises KernelError, which is a
    FileNotFoundError too when `pid` has ended; EPERM when the process has gone into a user namespace, where it could
    mount whatever it likes in our way.
    """
    there = f"/proc/{pid}/ns/mnt"
    with Guard("open", there):
        fd = os.open(there, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(fd), os.stat("/proc/thread-self/ns/mnt")):
            return function()
        _check_owner(fd, there)

        def go() -> Result:
            proc = os.open("/proc/thread-self", os.O_PATH | os.O_CLOEXEC)
            try:
                mount.keep_proc(proc)
                _go_there(fd)
                return function()
            finally:
                os.close(proc)

        return in_thread(go)
    finally:
        os.close(fd)


def _check_owner(fd: int, path: str) -> None:
    with Guard("find the owner of", path):
        owner = fcntl.ioctl(fd, _NS_GET_USERNS)
    try:
        if not os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user")):
            raise KernelError("setns", errno.EPERM, f"{path} belongs to another user namespace")
    finally:
        os.close(owner)


def _go_there(fd: int) -> None:
    unshare(_OWN_FS)  # else the kernel does not let one thread go alone
    setns(fd, NEW_NS)


def in_directory(fd: int, function: Callable[[], Result]) -> Result:
    """Call `function` with the open directory `fd` as the working directory, and return its result or raise its
    error. For system calls that take no descriptor. It runs in a thread of its own, in the caller's mount
    namespace.
    """

    def go() -> Result:
        os.fchdir(fd)
        return function()

    return with_own_directory(go)


def with_own_directory(function: Callable[[], Result]) -> Result:
    """Call `function` in a thread of its own, whose working directory it may change, and return its result or raise
    its error.
    """

    def go() -> Result:
        unshare(_OWN_FS)
        return function()

    return in_thread(go)


def in_thread(function: Callable[[], Result], *, then: Callable[[Result], None] | None = None) -> Result:
    """Call `function` in a thread of its own, whose namespaces it may change, and return its result or raise its
    error. `then` is called in that thread afterwards, with the result, and not waited for.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            errors.append(error)
        is_done.set()
        if results and then is not None:
            then(results[0])

    thread = threading.Thread(target=run, name="namespaces", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise libc.explained("clone", error) from None
    is_done.wait()
    if then is None:
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


def make_net(path: str) -> None:
    """Make a netns and keep it at `path`, as `ip netns add` does: for /run/netns that tool then lists it.

    Its loopback is down. Undo: `remove_net`. Raises KernelError, with nothing left, also when `path` exists.
    """
    _share(os.path.dirname(path))
    with Guard("make", path):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        with _Home():
            unshare(NEW_NET)
            mount.bind(OWN_NET, path)
    except BaseException:
        os.unlink(path)
        raise


def remove_net(path: str) -> None:
    """Detach the netns at `path`: it ends with its last process. Idempotent."""
    try:
        while True:
            mount.umount(path, lazy=True)
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    try:
        files.unlink(path)
    except KernelError as error:  # as in rootfs.unmounting.freed
        if error.errno != errno.EBUSY or not mount_copies.detach(path):
            raise
        files.unlink(path)


def is_net(path: str) -> bool:
    """Whether a netns is kept at `path`."""
    return mount.is_mounted(path)


def is_inhabited(path: str) -> bool:
    """Whether a process is in the netns kept at `path`; false when there is none."""
    try:
        netns = os.stat(path)
    except FileNotFoundError:
        return False
    return any(_is_in(netns, pid) for pid in os.listdir("/proc") if pid.isdigit())


def _is_in(netns: os.stat_result, pid: str) -> bool:
    try:
        return os.path.samestat(netns, os.stat(f"/proc/{pid}/ns/net"))
    except OSError:  # it has ended
        return False


def _share(directory: str) -> None:
    """Make the mount at `directory` shared: what is mounted below it appears in all mount namespaces."""
    files.make_dirs(directory, 0o755)
    with Guard("open", directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock.take(fd)  # as `ip netns` does, so that only one makes the mount
        if not mount.is_mounted(directory):
            mount.bind(directory, directory, recursive=True)
            mount.set_propagation(directory, mount.MS_SHARED | mount.MS_REC)
    finally:
        os.close(fd)
