# SPDX-License-Identifier: Apache-2.0
"""The only way to files that a guest, a VMM or an image's author can write: by descriptors, below a given directory.

Called wherever the host reaches below a pod's directory, a volume, an image's root or a log directory. The path of the
directory itself is the host's own and may lead through symbolic links. Below it no link is followed, `..` does not lead
out, and only regular files and directories are opened, without ever waiting: openat2(2) with RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS. `in_root` is the second mode, for images, whose own links are legitimate.

Methods raise NotPlain for what is no plain file or directory, or is reached through a link; Missing (a
FileNotFoundError) for what is absent; NoSpace; else KernelError.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable

from stage1.errors import KernelError, PodError
from stage1.linux import files, libc, mount, removal
from stage1.linux.libc import Guard

_NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_PLAIN = _BENEATH | NO_SYMLINKS | NO_MAGICLINKS
MOST_BYTES, MOST_NAMES = 16 << 20, 4096
"""The default limits of `read` and of `names`."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_PIN = os.O_PATH | os.O_NOFOLLOW
_TRIES = 16
_REPEATS = 256
"""Of one openat2: the renames that hit one in three calls in a row leave no chance of failing."""


class Root:
    """`with Root(path) as root:` all other paths are relative to that directory, which is held open.

    With `one_mount` nothing that is mounted below it is entered. Raises Missing when it does not exist.
    """

    def __init__(self, path: str, *, one_mount: bool = False) -> None:
        self.path = path
        self._resolve = _PLAIN | (_NO_XDEV if one_mount else 0)
        try:  # no Guard here and in `_in_parent`: they are most of what making a container calls
            self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise libc.failure("open", error.errno or errno.EIO, path) from error

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def below(self, path: str) -> Root:
        """The directory at `path`, with the same rules for what is below it. The caller closes it."""
        root = Root.__new__(Root)
        root.fd, root.path, root._resolve = self.open_directory(path), self._full(path), self._resolve
        return root

    # -- looking ---------------------------------------------------------------------------------------------

    def pin(self, path: str = ".") -> int:
        """A descriptor (O_PATH) of what is at `path`, of any kind, a link included. The caller closes it."""
        return self._open(path, _PIN)

    def stat(self, path: str) -> os.stat_result | None:
        """The status of what is at `path`, of a link itself; None when nothing is there."""
        try:
            fd = self.pin(path)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Whether anything is at `path`, a dangling link included."""
        return self.stat(path) is not None

    def names(self, path: str = ".", *, most: int = MOST_NAMES) -> list[str]:
        """Names in the directory, sorted, not more than `most`, however many there are."""
        fd = self.open_directory(path)
        try:
            with Guard("list", self._full(path)):
                return sorted(removal.first(fd, most))
        finally:
            os.close(fd)

    def read(self, path: str, *, most: int = MOST_BYTES, ours: bool = False) -> bytes:
        """The whole content. Raises KernelError (EFBIG) when it is longer than `most` bytes.

        With `ours` NotPlain is raised for a file that belongs to another user than this process.
        """
        fd = self.open(path)
        try:
            if ours and (owner := os.fstat(fd).st_uid) != os.geteuid():
                raise files.NotPlain(self._full(path), f"belongs to user {owner}", number=errno.EPERM)
            with Guard("read", self._full(path)):
                return _read(fd, most)
        finally:
            os.close(fd)

    def read_link(self, path: str) -> str:
        """The target of a symbolic link that we have created; empty if there is none, or if it belongs to another
        user. The caller must validate the text.
        """
        try:
            fd = self.pin(path)
        except FileNotFoundError:
            return ""
        try:
            status = os.fstat(fd)
            is_ours = stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid()
            return os.readlink("", dir_fd=fd) if is_ours else ""
        finally:
            os.close(fd)

    # -- opening ---------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open the regular file, which is looked at first: to open a device can be an act. The caller closes it.

        `flags` may not create it; see `open_or_make`.
        """
        pinned = self.pin(path)
        try:
            require(self._full(path), os.fstat(pinned).st_mode, stat.S_IFREG)
            with Guard("open", self._full(path)):
                return os.open(f"/proc/self/fd/{pinned}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(pinned)

    def open_or_make(self, path: str, flags: int, *, mode: int, is_new: bool = False) -> int:
        """Like `open`, and creates the file with permission bits `mode` if it does not exist: first, if it `is_new`."""
        for _ in range(_TRIES):
            try:
                if not is_new:
                    return self.open(path, flags)
            except FileNotFoundError:
                pass
            is_new = False
            try:
                return self.make_file(path, mode=mode, flags=flags)
            except KernelError as error:
                if error.errno != errno.EEXIST:
                    raise
        raise files.NotPlain(self._full(path), "comes and goes", number=errno.EAGAIN)

    def make_file(self, path: str, *, mode: int, flags: int = os.O_WRONLY) -> int:
        """Make a regular file and open it. Raises KernelError (EEXIST) when anything is there."""
        fd = self._open(path, flags | _NEW, 0o600)
        with Guard("chmod", self._full(path)):
            os.fchmod(fd, mode)
        return fd

    def open_directory(self, path: str = ".") -> int:
        """Open the directory for reading. The caller closes it."""
        try:
            return self._open(path, _DIRECTORY)
        except KernelError as error:
            if error.errno == errno.ENOTDIR and (status := self.stat(path)) is not None:
                require(self._full(path), status.st_mode, stat.S_IFDIR)
            raise

    def pin_socket(self, path: str) -> int:
        """A descriptor (O_PATH) of the socket: connect to /proc/self/fd/N. The caller closes it."""
        return self._pin_one_of(path, stat.S_IFSOCK)

    def pin_for_mount(self, path: str) -> int:
        """A descriptor (O_PATH) of the directory or regular file that is to be mounted over. The caller closes it."""
        return self._pin_one_of(path, stat.S_IFREG, stat.S_IFDIR)

    def _pin_one_of(self, path: str, *kinds: int) -> int:
        fd = self.pin(path)
        try:
            mode = os.fstat(fd).st_mode
            require(self._full(path), mode, stat.S_IFMT(mode) if stat.S_IFMT(mode) in kinds else kinds[0])
        except BaseException:
            os.close(fd)
            raise
        return fd

    # -- changing --------------------------------------------------------------------------------------------

    def attach(self, tree: int, path: str) -> None:
        """Mount the detached tree (a descriptor, see `mount.move_tree`) on the directory or regular file at `path`."""
        target = self.pin_for_mount(path)
        try:
            mount.move_tree(tree, target)
        finally:
            os.close(target)

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Put `data` at `path` with permission bits `mode`: readers see the old file or the whole new one. A link there
        is replaced, not followed.
        """

        def replace(parent: int, name: str) -> None:
            temporary = f"{name[:200]}.{os.urandom(6).hex()}~"
            try:
                files.fill(os.open(temporary, os.O_WRONLY | _NEW | os.O_CLOEXEC, 0o600, dir_fd=parent), data, mode)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                removal.unlink_if_there(parent, temporary)
                raise

        self._in_parent("write", path, replace)

    def write_new(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Make the file, whole only when this returns. Raises KernelError (EEXIST) when anything is there."""
        fd = self._open(path, os.O_WRONLY | _NEW, 0o600)
        with Guard("write", self._full(path)):
            files.fill(fd, data, mode)

    def make_directory(self, path: str, mode: int) -> None:
        """Make the directory with permission bits `mode`. Raises KernelError (EEXIST) when anything is there."""
        self._in_parent("mkdir", path, lambda parent, name: os.mkdir(name, 0o700, dir_fd=parent))
        if mode == 0o700:
            return  # which no umask makes more of
        fd = self.open_directory(path)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def make_directories(self, path: str, mode: int) -> None:
        """Make `path` and what is missing above it; the directories made get `mode`."""
        try:
            return self._make_unless_there(path, mode)
        except FileNotFoundError:
            if "/" not in path:
                raise
        self.make_directories(path.rpartition("/")[0], mode)
        return self._make_unless_there(path, mode)

    def _make_unless_there(self, path: str, mode: int) -> None:
        try:
            self.make_directory(path, mode)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            os.close(self.open_directory(path))

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link with the target `target`."""
        self._in_parent("symlink", path, lambda parent, name: os.symlink(target, name, dir_fd=parent))

    def unlink(self, path: str, *others: str) -> None:
        """Remove what is no directory, a link itself, and what has one of the names `others` beside it. Idempotent."""

        def remove(parent: int, name: str) -> None:
            for one in (name, *others):
                with Guard("unlink", f"{os.path.dirname(self._full(path))}/{one}"):
                    removal.unlink_if_there(parent, one)

        self._if_there("unlink", path, remove)

    def remove_tree(self, path: str) -> None:
        """Remove it and all below it. Idempotent. No mount is entered.

        Raises KernelError: EBUSY for a mount, ENOTEMPTY if it is filled faster than it can be emptied.
        """
        self._if_there("remove", path, removal.remove_entry)

    # -- inside ----------------------------------------------------------------------------------------------

    def _full(self, path: str) -> str:
        return f"{self.path}/{path}" if path != "." else self.path

    def _in_parent(self, call: str, path: str, act: Callable[[int, str], object]) -> None:
        """Have `act` do `call` with the directory of the last part of the path, and that part."""
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise files.NotPlain(self._full(path), "does not name a file", number=errno.EINVAL)
        parent = self.open_directory(above) if above else self.fd
        try:
            act(parent, name)
        except PodError:
            raise
        except OSError as error:
            raise libc.failure(call, error.errno or errno.EIO, self._full(path)) from error
        finally:
            if above:
                os.close(parent)

    def _if_there(self, call: str, path: str, act: Callable[[int, str], object]) -> None:
        """The same; nothing is done where the directory does not exist."""
        try:
            self._in_parent(call, path, act)
        except FileNotFoundError:
            pass

    def _open(self, path: str, flags: int, mode: int = 0) -> int:
        """Raises NotPlain for what openat2 does not resolve."""
        opened = _openat2(self.fd, path, flags, mode=mode, resolve=self._resolve)
        if opened >= 0:
            return opened
        if opened == -errno.EAGAIN:
            raise files.NotPlain(self._full(path), "is being moved all the time", number=errno.EAGAIN)
        if opened == -errno.ELOOP:
            raise files.NotPlain(self._full(path), "is or leads through a symbolic link", number=errno.ELOOP)
        if opened == -errno.EXDEV:
            raise files.NotPlain(self._full(path), f"leads out of {self.path} or into a mount", number=errno.EXDEV)
        raise libc.failure("open", -opened, self._full(path))


class Socket:
    """`with Socket(path) as address:` the address of the unix socket at `path`, which is no link and no other file.

    The directory of `path` may be reached through links. Raises NotPlain, Missing.
    """

    def __init__(self, path: str) -> None:
        directory, name = os.path.split(path)
        with Root(directory) as root:
            self._fd = root.pin_socket(name)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the address up. Once, where no `with` does it."""
        os.close(self._fd)


def openat2(dir_fd: int, path: str, flags: int, *, mode: int, resolve: int) -> int:
    """The system call, always with O_CLOEXEC."""
    opened = _openat2(dir_fd, path, flags, mode=mode, resolve=resolve)
    if opened < 0:
        raise libc.failure("openat2", -opened, f"{path} flags={flags:#x} resolve={resolve:#x}")
    return opened


def _openat2(dir_fd: int, path: str, flags: int, *, mode: int, resolve: int) -> int:
    """The descriptor, or the negative errno. The audit event is as that of `os.open`, for tests.

    Repeated on EAGAIN: the kernel gives up on a path with `..` when anything on the machine is renamed or mounted
    meanwhile (openat2(2)).
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    sys.audit("clearpod.open", path, flags)
    opened = -errno.EAGAIN
    for _ in range(_REPEATS):
        opened = libc.openat2(dir_fd, os.fsencode(path), how)
        if opened != -errno.EAGAIN:
            break
    return opened


def require(path: str, mode: int, expected: int) -> None:
    """Raise NotPlain unless the st_mode `mode` of `path` is of the kind `expected` (S_IFREG, S_IFDIR, S_IFSOCK)."""
    if stat.S_IFMT(mode) != expected:
        number = errno.ELOOP if stat.S_ISLNK(mode) else errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise files.NotPlain(path, f"is {files.kind(mode)}, but must be {files.kind(expected)}", number=number)


def _read(fd: int, most: int) -> bytes:
    parts, left = [], most + 1
    while left and (part := os.read(fd, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return b"".join(parts)
