# SPDX-License-Identifier: Apache-2.0
"""The directory of templates: one directory each, by name, with `ram`, `state` and `manifest.json`. Made by the node
and by rkt's gc, filled by `stage1.snapshot.save`.

A template appears whole, by rename, and is never changed. Who finds one that is damaged removes it, or leaves a mark in
its place: a VM that is a copy has the file open and goes on. Root's, mode 0700; `ram` can be read by everybody whom a
jail shows it to.
"""

import os
import stat
import time

from stage1.errors import NoSpace, VmFailed
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.snapshot.format import MANIFEST, REJECTED, Manifest, facts, note_use, read_template, written
from stage1.snapshot.machine import difference, now, this_host
from stage1.vm.template import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NEW = ".new"
_AGAIN_S = 24 * 3600
"""How long the mark of a rejected template is kept."""
COMPARED = "compared"
"""An empty file of a template: changed when its checksums were last compared (`compare`)."""


class Store:
    """Templates below `top`. Whole ones are looked at once, and after that only for changes of their files."""

    def __init__(self, top: str) -> None:
        self.top = top
        self._seen: dict[str, tuple[object, ...]] = {}

    def find(self, name: str) -> Template | None:
        """The template, None when there is none; one that is damaged is removed first. Raises KernelError."""
        template = Template(f"{self.top}/{name}")
        try:
            seen = facts(template)
            if self._seen.get(name) != seen:
                _check(template)
                self._seen[name] = seen
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
            try:
                return os.stat(f"{self.top}/{name}/{file}").st_mtime
            except OSError:
                continue
        return 0.0

    def mark(self, name: str) -> None:
        """Leave the mark of one that was rejected where none could be made: it is not tried again while that is kept.
        Raises KernelError, NoSpace.
        """
        files.make_dirs(f"{self.top}/{name}", 0o700)
        files.write_atomic(f"{self.top}/{name}/{REJECTED}", b"")

    def begin(self, name: str, memory_bytes: int) -> Template:
        """An empty directory for a template, with a file for so much memory. Undo: `abandon`. Raises NoSpace,
        KernelError.
        """
        files.make_dirs(self.top, 0o700)
        self.abandon(name)
        _require_space(self.top, memory_bytes)
        template = Template(f"{self.top}/{name}{_NEW}")
        with Guard("make", template.directory):
            os.mkdir(template.directory, 0o700)
            for path, size in ((template.ram, memory_bytes), (template.state, 0)):
                with open(path, "xb") as file:
                    file.truncate(size)
                os.chmod(path, 0o600)
        return template

    def commit(self, name: str, made_of: "Mapping[str, str]") -> Template:
        """Make it one that is found. Raises NoSpace, KernelError."""
        new, there = Template(f"{self.top}/{name}{_NEW}"), Template(f"{self.top}/{name}")
        with Guard("write", new.directory):
            os.chown(new.ram, 0, 0)
            os.chmod(new.ram, 0o444)
            os.chmod(new.state, 0o400)
            for path in (new.ram, new.state):
                files.sync(path)
        manifest = Manifest(made_of, _digests(new), written(new))
        files.write_atomic(f"{new.directory}/{MANIFEST}", manifest.encode())
        self.remove(name)
        with Guard("rename", new.directory):
            os.rename(new.directory, there.directory)
            files.sync(self.top)
        self._seen[name] = facts(there)
        return there

    def abandon(self, name: str) -> None:
        """Undo `begin`; idempotent."""
        files.remove_tree(f"{self.top}/{name}{_NEW}")

    def remove(self, name: str) -> None:
        """Remove a template. Idempotent."""
        self._seen.pop(name, None)
        files.remove_tree(f"{self.top}/{name}")

    def discard(self, name: str) -> bool:
        """Remove a template that is of no use; whether this call did it."""
        gone = Template(f"{self.top}/{name}{_NEW}.{os.urandom(4).hex()}")
        try:
            with Guard("rename", f"{self.top}/{name}"):
                os.rename(f"{self.top}/{name}", gone.directory)
        except FileNotFoundError:
            return False
        self._seen.pop(name, None)
        files.remove_tree(gone.directory)
        return True

    def names(self) -> list[str]:
        """Return the names of all templates, the most recently used first."""
        try:
            names = [one for one in os.listdir(self.top) if _NEW not in one]
        except FileNotFoundError:
            return []
        return sorted(names, key=self._used, reverse=True)

    def remove_unused(self, is_current: "Callable[[Manifest], bool]", *, most_bytes: int) -> list[str]:
        """Remove what was begun, what was made of what is no more (`is_current` gets that), and those that were not
        used for the longest time, until the others take at most so much of the disk; their names. Of what was rejected
        the mark is kept for a day. None may be in the making. Raises KernelError.
        """
        for one in os.listdir(self.top) if os.path.isdir(self.top) else ():
            if _NEW in one:
                files.remove_tree(f"{self.top}/{one}")
        removed, left_bytes = [], most_bytes
        for name in [one for one in self.names() if not self._is_mark(one)]:
            taken_bytes = _blocks(f"{self.top}/{name}")
            if taken_bytes <= left_bytes and self._is_whole(name, is_current):
                left_bytes -= taken_bytes
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

    def _is_whole(self, name: str, is_current: "Callable[[Manifest], bool]") -> bool:
        try:
            return is_current(read_template(Template(f"{self.top}/{name}")))
        except (VmFailed, FileNotFoundError):
            return False

    def _used(self, name: str) -> float:
        try:
            return os.stat(f"{self.top}/{name}/{MANIFEST}").st_mtime
        except OSError:
            return 0.0


def remove_outdated(store: Store, *, most_bytes: int) -> list[str]:
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
    from stage1.rootfs.checkpoint import examined  # rkt's pods read no guest's memory, and wait for each import

    return {os.path.basename(path): examined(path) for path in (template.ram, template.state)}


def _blocks(path: str) -> int:
    try:
        return sum(os.stat(f"{path}/{name}").st_blocks * 512 for name in os.listdir(path))
    except OSError:
        return 0
