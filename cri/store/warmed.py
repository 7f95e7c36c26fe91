# SPDX-License-Identifier: Apache-2.0
"""Warmed templates on the disk: checkpoints of pods that ran, by namespace and name, below the state directory. Used by
`cri.pods.warmed`, in threads.

    NAMESPACE/NAME/   a checkpoint (`stage1.rootfs.checkpoint`); it appears by rename, when it is complete
    .new/ID/          one that is being written, or removed
    .lent/ID/         hard links to its files, for a pod that begins as a copy: the template may be removed meanwhile

All of it is root's, mode 0700: it has all secrets of the pods.
"""

import contextlib
import errno
import os
import re
import secrets
import stat

from stage1.errors import AlreadyExists, BadRequest, KernelError, NoSpace, NotFound
from stage1.linux import beneath, files
from stage1.linux.libc import Guard
from stage1.rootfs import checkpoint as place

DIRECTORY = "warmed"
"""The directory below the state directory."""
NONE = "none"
"""No template can be called so: a pod that asks for it boots."""
_NEW, _LENT = ".new", ".lent"
_NAME = re.compile("[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_FILES = (place.GUEST, place.DISK, place.MANIFEST)

Facts = tuple[tuple[int, int, int], ...]
"""Inode, bytes and time of change of the guest and the disk: others after they were written to."""


def check_name(name: str, *, what: str = "name of a template") -> None:
    """Raise BadRequest unless it can be one."""
    if not _NAME.fullmatch(name) or name == NONE:
        raise BadRequest(
            f"{name[:80]!r} can't be the {what}; give up to 63 small letters, digits and dashes, and not {NONE!r}"
        )


class WarmedStore:
    """The directories of warmed templates below `state_dir`."""

    def __init__(self, state_dir: str) -> None:
        self.top = f"{state_dir}/{DIRECTORY}"

    def collect_garbage(self) -> None:
        """Remove what a daemon has left that was killed. None may be in the making or in use. Raises KernelError."""
        for name in (_NEW, _LENT):
            files.remove_tree(f"{self.top}/{name}")

    def names(self) -> list[tuple[str, str]]:
        """Namespace and name of each, sorted. Raises KernelError."""
        return [
            (namespace, name)
            for namespace in _directories(self.top)
            if _NAME.fullmatch(namespace)
            for name in _directories(f"{self.top}/{namespace}")
            if _NAME.fullmatch(name)
        ]

    def path(self, namespace: str, name: str) -> str:
        """Return the template's directory. Raises NotFound, also for invalid names."""
        path = f"{self.top}/{namespace}/{name}"
        is_name = _NAME.fullmatch(namespace) and _NAME.fullmatch(name)
        if not is_name or name not in _directories(os.path.dirname(path)):
            raise NotFound(
                f"there is no template {name[:80]!r} in the namespace {namespace[:80]!r}; `clearpod template list` "
                "shows those that exist"
            )
        return path

    def begin(self) -> str:
        """A new, empty directory for one that is to be written. Undo: `discard`. Raises NoSpace, KernelError."""
        path = f"{self.top}/{_NEW}/{secrets.token_hex(8)}"
        files.make_dirs(path, 0o700)
        return path

    def discard(self, path: str) -> None:
        """Undo `begin`. Raises KernelError."""
        files.remove_tree(path)

    def publish(self, path: str, namespace: str, *, name: str) -> None:
        """Make the files in `path` the template of that name, durably. Raises AlreadyExists, NoSpace, KernelError."""
        target = f"{self.top}/{namespace}/{name}"
        files.make_dirs(os.path.dirname(target), 0o700)
        try:
            with Guard("rename", path):
                os.rename(path, target)
        except KernelError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise taken(namespace, name) from None
        files.sync(os.path.dirname(target))
        files.sync(self.top)

    def lend(self, namespace: str, name: str, *, borrower: str) -> str:
        """A directory with the same files, as far as they are there, for the pod with the id `borrower`. Undo:
        `give_back`. Raises NotFound, BadRequest when others may write to it, NotPlain, NoSpace, KernelError.
        """
        path, lent = self.path(namespace, name), self.lent(borrower)
        place.check_directory(path)
        files.make_dirs(lent, 0o700)
        there = _files(path)
        for file in _FILES:
            if file in there:
                beneath.require(f"{path}/{file}", there[file].st_mode, stat.S_IFREG)
            with contextlib.suppress(FileNotFoundError), Guard("link", f"{path}/{file}"):
                os.link(f"{path}/{file}", f"{lent}/{file}", follow_symlinks=False)
        return lent

    def lent(self, borrower: str) -> str:
        """The path of the directory that `lend` makes."""
        return f"{self.top}/{_LENT}/{borrower}"

    def give_back(self, borrower: str) -> None:
        """Undo `lend`. Idempotent. Raises KernelError."""
        files.remove_tree(self.lent(borrower))

    def remove(self, namespace: str, name: str) -> None:
        """Remove a template, which can't be found any more when this returns; its copies have their own files. Raises
        NotFound, KernelError.
        """
        path, gone = self.path(namespace, name), ""
        try:
            gone = self.begin()
            with Guard("rename", path):
                os.rename(path, f"{gone}/{name}")
        except NoSpace:  # it may be removed for that
            with beneath.Root(path) as own:
                own.unlink(place.MANIFEST)
            self.discard(path)
        finally:
            if gone:
                self.discard(gone)


def taken(namespace: str, name: str) -> AlreadyExists:
    """The error of one that is there already."""
    return AlreadyExists(
        f"the namespace {namespace!r} has a template {name!r}; choose another name, or remove it with `clearpod "
        f"template rm {namespace}/{name}`"
    )


def facts(path: str) -> Facts:
    """Return inode, size and time of the files in `path`, to notice a change without reading them. Raises
    KernelError.
    """
    status = _files(path)
    return tuple(
        (status[name].st_ino, status[name].st_size, status[name].st_mtime_ns)
        for name in (place.GUEST, place.DISK)
        if name in status
    )


def taken_bytes(path: str) -> int:
    """The disk space of its files; blocks that it shares with others count in full. 0 if it does not exist. Raises
    KernelError.
    """
    return sum(status.st_blocks * 512 for status in _files(path).values())


def _files(path: str) -> dict[str, os.stat_result]:
    try:
        with Guard("list", path), os.scandir(path) as entries:
            return {one.name: one.stat(follow_symlinks=False) for one in entries}
    except FileNotFoundError:
        return {}


def _directories(path: str) -> list[str]:
    """Names of the directories in it, none when it does not exist. Raises NotPlain when it is none, KernelError."""
    try:
        with Guard("list", path), os.scandir(path) as entries:
            return sorted(one.name for one in entries if one.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except KernelError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        above = os.path.dirname(path)
        odd = path if os.path.isdir(above) else above
        raise beneath.no_directory(odd, number=error.errno) from None
