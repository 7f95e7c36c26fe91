# SPDX-License-Identifier: Apache-2.0
"""The directories of snapshots that have names: those of pods (`Store`), and templates (`TemplateStore`).

    NAME/ or NAMESPACE/NAME/   a snapshot; it appears by rename, when it is complete, and is never changed
    .new/KEY/                  one that is being written, or removed
    .lent/BORROWER/            hard links to its files, for who begins with it: it may be removed meanwhile

All of it is root's, mode 0700: it has all secrets of the pods. A template's memory can be read by everybody whom a jail
shows it to.
"""

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping

from stage1.errors import AlreadyExists, KernelError, NoSpace, NotFound, VmFailed
from stage1.linux import beneath, files
from stage1.linux.libc import Guard
from stage1.rootfs.checkpoint import DISK, GUEST, check_directory, examined
from stage1.snapshot.format import MANIFEST, REJECTED, Manifest, facts, note_use, read_template, written
from stage1.snapshot.machine import difference, now, this_host
from stage1.vm.template import Template

Seen = tuple[tuple[int, int, int], ...]


_NEW, _LENT = ".new", ".lent"
_LETTERS, _MOST_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-"), 63
_AGAIN_S = 24 * 3600
"""How long the mark of a rejected template is kept."""
COMPARED = "compared"
"""An empty file of a template: changed when its checksums were last compared (`compare`)."""


class Store:
    """Snapshots below `top`, by names with `depth` parts, between slashes."""

    def __init__(self, top: str, *, depth: int = 2) -> None:
        self.top, self._depth = top, depth

    def collect_garbage(self) -> None:
        """Remove what was begun, and what was lent. None may be in the making or in use. Raises KernelError."""
        for place in (f"{self.top}/{_NEW}", f"{self.top}/{_LENT}"):
            for left in _directories(place):
                files.remove_tree(f"{place}/{left}")

    def names(self) -> list[str]:
        """The names of all, sorted. Raises NotPlain where no directory is in the place of one, KernelError."""
        paths = [""]
        for _ in range(self._depth):
            paths = [f"{above}/{one}" for above in paths for one in _directories(self.top + above) if is_name(one)]
        return [one[1:] for one in paths]

    def path(self, name: str) -> str:
        """The directory of one. Raises NotFound, also for invalid names, and as `names`."""
        above, _, last = name.rpartition("/")
        are_names = name.count("/") == self._depth - 1 and all(map(is_name, name.split("/")))
        if not are_names or last not in _directories(f"{self.top}/{above}"):
            raise NotFound(
                f"there is no snapshot {last[:80]!r} in the namespace {above[:80]!r}; `clearpod snapshot list` shows "
                "those that exist"
            )
        return f"{self.top}/{name}"

    def begin(self, key: str = "") -> str:
        """A new, empty directory for one that is to be written. Undo: `discard`. Raises NoSpace, KernelError."""
        path = f"{self.top}/{_NEW}/{key or secrets.token_hex(8)}"
        files.remove_tree(path)
        files.make_dirs(path, 0o700)
        return path

    def discard(self, path: str) -> None:
        """Undo `begin`. Idempotent. Raises KernelError."""
        files.remove_tree(path)

    def publish(self, path: str, name: str) -> None:
        """Make the files in `path` the snapshot of that name, durably. Raises AlreadyExists, NoSpace, KernelError."""
        target = f"{self.top}/{name}"
        files.make_dirs(os.path.dirname(target), 0o700)
        try:
            with Guard("rename", path):
                os.rename(path, target)
        except KernelError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise AlreadyExists(f"there is a snapshot {name!r}; choose another name, or remove it") from None
        files.sync(os.path.dirname(target))
        files.sync(self.top)

    def remove(self, name: str) -> bool:
        """Remove one, which can't be found any more when this returns; who has begun with it has its own files. Whether
        it was there, and no other call was faster. Raises KernelError.
        """
        gone = f"{self.top}/{_NEW}/{secrets.token_hex(8)}"
        files.make_dirs(os.path.dirname(gone), 0o700)
        try:
            with Guard("rename", f"{self.top}/{name}"):
                os.rename(f"{self.top}/{name}", gone)
        except FileNotFoundError:
            return False
        files.remove_tree(gone)
        return True

    def lend(self, name: str, *, borrower: str) -> str:
        """A directory with the same files, as far as they are there, for the pod with the id `borrower`. Undo:
        `give_back`. Raises NotFound, BadRequest when others may write to it, NotPlain, NoSpace, KernelError.
        """
        path, lent = self.path(name), self.lent(borrower)
        check_directory(path)
        files.make_dirs(lent, 0o700)
        there = _files(path)
        for file in (GUEST, DISK, MANIFEST):
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

    def used_bytes(self) -> int:
        """The disk space of all. Raises as `names`."""
        return sum(taken_bytes(f"{self.top}/{name}") for name in self.names())


def is_name(word: str) -> bool:
    """Whether it can be a part of a name: as Kubernetes has them."""
    return 0 < len(word) <= _MOST_NAME and _LETTERS.issuperset(word) and "-" not in (word[0], word[-1])


def seen(path: str) -> Seen:
    """Inode, size and time of the guest and the disk in `path`, to notice a change without reading them. Raises
    KernelError.
    """
    there = _files(path)
    status = [there[name] for name in (GUEST, DISK) if name in there]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in status)


def taken_bytes(path: str) -> int:
    """The disk space of a snapshot's files; blocks that it shares with others count in full. 0 if it does not exist.
    Raises KernelError.
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
        raise files.no_directory(odd, number=error.errno) from None


class TemplateStore(Store):
    """Templates, each with `ram`, `state` and `manifest.json`. Whole ones are looked at once, and after that only for
    changes of their files. Who finds one that is damaged removes it, or leaves a mark in its place: a VM that is a copy
    has the file open and goes on. Made by the node and by rkt's gc, filled by `stage1.snapshot.save`.
    """

    def __init__(self, top: str) -> None:
        super().__init__(top, depth=1)
        self._seen: dict[str, tuple[object, ...]] = {}

    def find(self, name: str) -> Template | None:
        """The template, None when there is none; one that is damaged is removed first. Raises KernelError."""
        template = Template(f"{self.top}/{name}")
        try:
            there = facts(template)
            if self._seen.get(name) != there:
                _check(template)
                self._seen[name] = there
        except FileNotFoundError:
            return None
        except VmFailed:
            self.remove(name)
            raise
        note_use(template)
        return template

    def compare(self, every_s: float) -> list[str]:
        """Compare one template with its checksums, the one for which that is due for the longest time; it is due every
        `every_s` seconds. One that is damaged is removed, and a sentence returned. Raises KernelError.
        """
        name = min((one for one in self.names() if not self._is_mark(one)), key=self._compared, default="")
        if not name or time.time() - self._compared(name) < every_s:
            return []
        try:
            _check(Template(f"{self.top}/{name}"))
            files.write_atomic(f"{self.top}/{name}/{COMPARED}", b"")
        except (VmFailed, FileNotFoundError) as error:
            self.remove(name)
            return [f"{error}; it was removed"]
        return []

    def _compared(self, name: str) -> float:
        """When; it was right when it was written."""
        for file in (COMPARED, "state"):
            with contextlib.suppress(OSError):
                return os.stat(f"{self.top}/{name}/{file}").st_mtime
        return 0.0

    def mark(self, name: str) -> None:
        """Leave the mark of one that was rejected where none could be made: it is not tried again while that is kept.
        Raises KernelError, NoSpace.
        """
        files.make_dirs(f"{self.top}/{name}", 0o700)
        files.write_atomic(f"{self.top}/{name}/{REJECTED}", b"")

    def prepare(self, name: str, memory_bytes: int) -> Template:
        """An empty directory for a template, with a file for so much memory. Undo: `abandon`. Raises NoSpace,
        KernelError.
        """
        files.make_dirs(self.top, 0o700)
        _require_space(self.top, memory_bytes)
        template = Template(self.begin(name))
        with Guard("make", template.directory):
            for path, size in ((template.ram, memory_bytes), (template.state, 0)):
                with open(path, "xb") as file:
                    file.truncate(size)
                os.chmod(path, 0o600)
        return template

    def commit(self, name: str, made_of: Mapping[str, str]) -> Template:
        """Make it one that is found. Raises NoSpace, KernelError."""
        new = Template(f"{self.top}/{_NEW}/{name}")
        with Guard("write", new.directory):
            os.chown(new.ram, 0, 0)
            os.chmod(new.ram, 0o444)
            os.chmod(new.state, 0o400)
            for path in (new.ram, new.state):
                files.sync(path)
        manifest = Manifest(made_of, _digests(new), written(new))
        files.write_atomic(f"{new.directory}/{MANIFEST}", manifest.encode())
        self.remove(name)
        self.publish(new.directory, name)
        there = Template(f"{self.top}/{name}")
        self._seen[name] = facts(there)
        return there

    def abandon(self, name: str) -> None:
        """Undo `prepare`; idempotent."""
        self.discard(f"{self.top}/{_NEW}/{name}")

    def remove(self, name: str) -> bool:
        """Like that of all stores."""
        self._seen.pop(name, None)
        return super().remove(name)

    def remove_unused(self, is_current: Callable[[Manifest], bool], *, most_bytes: int) -> list[str]:
        """Remove what was begun, what was made of what is no more (`is_current` gets that), and those that were not
        used for the longest time, until the others take at most so much of the disk; their names. Of what was rejected
        the mark is kept for a day. None may be in the making. Raises KernelError.
        """
        self.collect_garbage()
        removed, left_bytes = [], most_bytes
        for name in sorted(self.names(), key=self._used, reverse=True):
            if self._is_mark(name):
                continue
            taken = taken_bytes(f"{self.top}/{name}")
            if taken <= left_bytes and self._is_whole(name, is_current):
                left_bytes -= taken
            else:
                self.remove(name)
                removed.append(name)
        return removed

    def _is_mark(self, name: str) -> bool:
        """Whether it was rejected, not long ago; the mark alone is kept then."""
        template = Template(f"{self.top}/{name}")
        try:
            is_mark = time.time() - os.stat(f"{template.directory}/{REJECTED}").st_ctime < _AGAIN_S
        except FileNotFoundError:
            return False
        for path in (template.ram, template.state) if is_mark else ():
            files.unlink(path)
        return is_mark

    def _is_whole(self, name: str, is_current: Callable[[Manifest], bool]) -> bool:
        try:
            return is_current(read_template(Template(f"{self.top}/{name}")))
        except (VmFailed, FileNotFoundError):
            return False

    def _used(self, name: str) -> float:
        try:
            return os.stat(f"{self.top}/{name}/{MANIFEST}").st_mtime
        except OSError:
            return 0.0


def remove_outdated(store: TemplateStore, *, most_bytes: int) -> list[str]:
    """Remove templates that no VM can be a copy of any more, and those beyond so much of the disk; their names. None
    may be in the making. Raises KernelError.
    """
    host = this_host()

    def is_current(manifest: Manifest) -> bool:
        return not difference(manifest, now(manifest.made_of, host))

    return store.remove_unused(is_current, most_bytes=most_bytes)


def _require_space(top: str, memory_bytes: int) -> None:
    """A VMM whose memory is a file on a full disk ends by SIGBUS, which gives no reason. Raises NoSpace."""
    with Guard("statvfs", top):
        status = os.statvfs(top)
    free_bytes = status.f_bavail * status.f_frsize
    if free_bytes < memory_bytes:
        raise NoSpace(
            f"{top} has {free_bytes} bytes free, and a template takes up to {memory_bytes}, the memory of its VM; free"
            " some space there"
        )


def _check(template: Template) -> None:
    """Raise VmFailed when it is not as it was made, or others than its user may change it."""
    kinds = ((template.directory, stat.S_IFDIR), (template.ram, stat.S_IFREG), (template.state, stat.S_IFREG))
    for path, kind in kinds:
        status = os.lstat(path)
        if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise VmFailed(f"the template {template.directory} is damaged: {path} can be changed by others")
    manifest = read_template(template)
    for name, digest in _digests(template).items():
        if manifest.files.get(name) != digest:
            raise VmFailed(f"the template {template.directory} is damaged: the checksum of {name} differs")


def _digests(template: Template) -> dict[str, tuple[int, str]]:
    """Length and digest of the template's files, by name. Raises FileNotFoundError, KernelError."""
    return {os.path.basename(path): examined(path) for path in (template.ram, template.state)}
