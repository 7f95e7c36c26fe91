# SPDX-License-Identifier: Apache-2.0
"""System calls that `os` lacks, by ctypes, and the one translation of errno into our errors.

Used by the other files of stage1.linux only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from types import TracebackType
from typing import Any

from stage1.errors import DiskFailed, Exhausted, KernelError, NoSpace, PodError

# The same on every architecture: system calls since number 424 are.
NR_SETFSUID, NR_SETFSGID = 122, 123
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442
NR_LANDLOCK_CREATE_RULESET = 444
NR_STATMOUNT = 457

AT_FDCWD = -100
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_BROKEN = (errno.EROFS, errno.EIO)
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
OF_THE_HOST = (*_DISK_FULL, *_DISK_BROKEN, *_NO_MORE)
"""The host is full, broken or at its limits: no fault of ours, nor of who asks, whoever meets them."""
NO_THREAD = "can't start new thread"
"""Python's message when no thread can be started."""
_TREES = ("open_tree", "move_mount")
"""The calls for which ENOSPC is about the number of mounts, and not about a disk."""
_STARTS = ("posix_spawn", "fork", "clone")
"""The calls for which EAGAIN means that no process can be started."""

_handle: _Library | None = None


class Missing(KernelError, FileNotFoundError):  # type: ignore[misc]  # OSError.errno may be None, ours not
    """ENOENT. Also a FileNotFoundError, which callers that expect absence can catch."""

    def __init__(self, call: str, number: int, what: str) -> None:
        super().__init__(call, number, what)
        # OSError's own __init__, further up, has set it to None.
        self.errno = number


def failure(call: str, number: int, what: str) -> PodError:
    """The error for errno `number` of `call` on `what`: NoSpace for a full disk or quota, DiskFailed for one that is
    read-only or broken, Exhausted where there are no more descriptors, processes or memory, or KernelError.

    For ENOENT that is a Missing, which is a FileNotFoundError too.
    """
    if number == errno.ENOSPC and call in _TREES:
        return NoSpace(f"{call}: {what}: there would be more mounts than the sysctl fs.mount-max allows; mount less")
    if number in _DISK_FULL:
        return NoSpace(f"{call}: {what}: {os.strerror(number)}; free some space there and try again")
    if number in _DISK_BROKEN:
        return DiskFailed(call, number, what)
    if number in _NO_MORE or (number == errno.EAGAIN and call in _STARTS):
        return Exhausted(call, number, what)
    return Missing(call, number, what) if number == errno.ENOENT else KernelError(call, number, what)


def explained(call: str, error: BaseException) -> BaseException:
    """The error as `failure` makes it when the host, or a limit of this process, is the cause; else the same one."""
    if isinstance(error, PodError):
        return error
    if isinstance(error, OSError) and error.errno in OF_THE_HOST:
        return failure(call, error.errno, error.filename or "a file of clearpod's")
    if isinstance(error, MemoryError):
        return Exhausted(call, errno.ENOMEM, "memory")
    if isinstance(error, BlockingIOError):  # of a fork; readers of non-blocking files handle it themselves
        return Exhausted(call, errno.EAGAIN, "a process")
    if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
        return Exhausted(call, errno.EAGAIN, "a thread")
    return error


class Guard:
    """`with Guard("open", path):` turns an OSError of the block into our error, naming call and object."""

    def __init__(self, call: str, what: str) -> None:
        self._call, self._what = call, what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, PodError):
            raise failure(self._call, error.errno or errno.EIO, self._what) from error


def call(name: str, *args: int | bytes | None, what: str) -> int:
    """Call libc's `name` and return its result; raise what `failure` makes of errno when it is negative."""
    result = _result(name, args)
    if result < 0:
        raise failure(name, -result, what)
    return result


def _result(name: str, args: tuple[int | bytes | None, ...]) -> int:
    """The result, or the negative errno. The audit event is as those of `os`: by it tests stop a process between two
    steps.
    """
    library = _handle or _loaded()
    sys.audit("clearpod.libc", name, *args[:1])
    result: int = getattr(library.functions, name)(*[library.long(a) if isinstance(a, int) else a for a in args])
    return result if result >= 0 else -library.errno()


class _Library:
    """libc's functions by name, and what its arguments and errors are made of."""

    def __init__(self) -> None:
        self.functions: Any = ctypes.CDLL(None, use_errno=True)
        self.long, self.errno = ctypes.c_long, ctypes.get_errno
        number, path, size = ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t
        kind = ctypes.CFUNCTYPE(number, number, ctypes.c_int, path, path, size, use_errno=True)
        self.openat2 = kind(("syscall", self.functions))  # by far the most frequent: it takes our values as they are
        self.address: Any = lambda memory: ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _loaded() -> _Library:
    global _handle  # noqa: PLW0603  bound once, on first use
    _handle = _handle or _Library()
    return _handle


def openat2(dir_fd: int, path: bytes, how: bytes) -> int:
    """The descriptor, or the negative errno; `how` is a struct open_how."""
    library = _handle or _loaded()
    opened: int = library.openat2(NR_OPENAT2, dir_fd, path, how, len(how))
    return opened if opened >= 0 else -library.errno()


def address(memory: bytearray) -> int:
    """Where the kernel can write into `memory`, which must live as long."""
    return int((_handle or _loaded()).address(memory))


def syscall(name: str, number: int, *args: int | bytes | None, what: str) -> int:
    """Like `call`, for a system call that libc has no function for."""
    result = try_syscall(number, *args)
    if result < 0:
        raise failure(name, -result, what)
    return result


def try_syscall(number: int, *args: int | bytes | None) -> int:
    """The same for a call that often fails and whose errors its caller makes: its result, or the negative errno."""
    return _result("syscall", (number, *args))


def try_call(name: str, *args: int | bytes | None) -> int:
    """Like `try_syscall`, by libc's function."""
    return _result(name, args)
