# SPDX-License-Identifier: Apache-2.0
"""The directory of templates: one directory each, by name, with `ram`, `state` and `manifest.json`. Made by the node,
used by `stage1.templates`.

A template appears whole, by rename, and is never changed. Who finds one that is damaged removes it, or leaves a mark in
its place: a VM that is a copy has the file open and goes on. Root's, mode 0700; `ram` can be read by everybody whom a
jail shows it to.
"""

import json
import os
import time
from typing import NamedTuple

from stage1.errors import NoSpace, VmFailed
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.vm.template import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MANIFEST = "manifest.json"
REJECTED = "rejected"
"""The manifest's name when the template is no good; rkt's launcher gives it, too (images/launcher)."""
_NEW = ".new"
_CHUNK = 1 << 20
_AGAIN_S = 24 * 3600
"""How long the mark of one that was rejected is kept."""
COMPARED = "compared"
"""An empty file of a template: changed when its checksums were last compared (`compare`)."""
_USED_S = 3600
"""How exactly the last use is known."""


class Manifest(NamedTuple):
    """`made_of` are the parts of `template_key`, `digests` those of the files by name, and `facts` what of the files
    would be another after a change; none in one of an earlier version.
    """

    made_of: "Mapping[str, str]"
    digests: "Mapping[str, str]"
    facts: "Mapping[str, str]" = {}  # noqa: RUF012  never changed

    def encode(self) -> bytes:
        """Return the manifest as the content of its file."""
        return json.dumps({"version": 1, **self._asdict()}, indent=1).encode()


def decode(text: bytes) -> Manifest:
    """What `encode` gave. Raises VmFailed when it is damaged or a later version's."""
    try:
        record = json.loads(text)
        if record["version"] != 1:
            raise ValueError
        tables = (record["made_of"], record["digests"], record.get("facts", {}))
        return Manifest(*({str(key): str(value) for key, value in table.items()} for table in tables))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VmFailed("the manifest of a template is damaged") from None


def digest(path: str) -> str:
    """Return the digest of a sparse file: of its size, and of its data with their offsets. Raises KernelError."""
    import hashlib  # who starts one pod has no use for it, and waits for each import

    with Guard("read", path), open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        total, at = hashlib.sha256(b"%d" % size), 0
        while at < size and (begin := _data(file.fileno(), at)) >= 0:
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            total.update(b" %d %d " % (begin, at))
            for start in range(begin, at, _CHUNK):
                total.update(os.pread(file.fileno(), min(_CHUNK, at - start), start))
    return total.hexdigest()


def _data(fd: int, at: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError:  # no more
        return -1


class Store:
    """Templates below `top`. Whole ones are looked at once, and then only whether somebody has touched them."""

    def __init__(self, top: str) -> None:
        self.top = top
        self._seen: dict[str, tuple[object, ...]] = {}

    def find(self, name: str) -> Template | None:
        """The template, None when there is none; one that is damaged is removed first. Raises KernelError."""
        template = Template(f"{self.top}/{name}")
        try:
            facts = _facts(template)
            if self._seen.get(name) != facts:
                _check(template)
                self._seen[name] = facts
        except FileNotFoundError:
            return None
        except VmFailed:
            self.remove(name)
            raise
        _note_use(template)
        return template

    def find_at_once(self, name: str) -> Template | None:
        """As `find`, for who starts one pod and reads no guest's memory for that: a change is known by sizes, times and
        inodes. One that is damaged is rejected first. Raises KernelError.
        """
        template = Template(f"{self.top}/{name}")
        try:
            manifest = decode(files.read(f"{template.directory}/{MANIFEST}"))
            if manifest.facts != _written(template):
                raise VmFailed(f"the template {template.directory} was changed since it was written")
        except FileNotFoundError:
            return None
        except VmFailed:
            self.reject(name)
            raise
        _note_use(template)
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

    def reject(self, name: str) -> None:
        """Let nobody find it. It stays as a mark that its name is not to be used, until it is removed."""
        with Guard("rename", f"{self.top}/{name}/{MANIFEST}"):
            os.rename(f"{self.top}/{name}/{MANIFEST}", f"{self.top}/{name}/{REJECTED}")

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
        digests = {"ram": digest(new.ram), "state": digest(new.state)}
        files.write_atomic(f"{new.directory}/{MANIFEST}", Manifest(made_of, digests, _written(new)).encode())
        self.remove(name)
        with Guard("rename", new.directory):
            os.rename(new.directory, there.directory)
            files.sync(self.top)
        self._seen[name] = _facts(there)
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

    def remove_unused(self, is_current: "Callable[[Mapping[str, str]], bool]", *, most_bytes: int) -> list[str]:
        """Remove what was begun, what was made of what is no more (`is_current` gets that), and those that were not
        used for the longest time, until the others take at most so much of the disk; their names. Of what was rejected
        the mark is kept for a day. Nobody may be making one. Raises KernelError.
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

    def _is_whole(self, name: str, is_current: "Callable[[Mapping[str, str]], bool]") -> bool:
        try:
            return is_current(decode(files.read(f"{self.top}/{name}/{MANIFEST}")).made_of)
        except (VmFailed, FileNotFoundError):
            return False

    def _used(self, name: str) -> float:
        try:
            return os.stat(f"{self.top}/{name}/{MANIFEST}").st_mtime
        except OSError:
            return 0.0


def _require_space(top: str, memory_bytes: int) -> None:
    """A VMM whose memory is a file on a full disk ends by SIGBUS, which tells nobody why. Raises NoSpace."""
    with Guard("statvfs", top):
        status = os.statvfs(top)
    free_bytes = status.f_bavail * status.f_frsize
    if free_bytes < memory_bytes:
        raise NoSpace(
            f"{top} has {free_bytes} bytes free, and a template takes up to {memory_bytes}, the memory of its VM; free"
            " some space there"
        )


def _written(template: Template) -> dict[str, str]:
    """Return the facts about the template's files as they stand in the manifest, by name."""
    names = (template.ram, template.state)
    return {os.path.basename(name): " ".join(map(str, one)) for name, one in zip(names, _facts(template), strict=True)}


def _facts(template: Template) -> tuple[tuple[int, ...], ...]:
    """What would be another after a change. Raises FileNotFoundError."""
    status = [os.stat(path) for path in (template.ram, template.state)]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in status)


def _check(template: Template) -> None:
    """Raise VmFailed when it is not as it was made."""
    manifest = decode(files.read(f"{template.directory}/{MANIFEST}"))
    for name, path in (("ram", template.ram), ("state", template.state)):
        if manifest.digests.get(name) != digest(path):
            raise VmFailed(f"the template {template.directory} is damaged: {name} is not what was written")


def _note_use(template: Template) -> None:
    path = f"{template.directory}/{MANIFEST}"
    try:
        if time.time() - os.stat(path).st_mtime > _USED_S:
            os.utime(path)
    except OSError:
        pass  # it is only about which one is removed first


def _blocks(path: str) -> int:
    try:
        return sum(os.stat(f"{path}/{name}").st_blocks * 512 for name in os.listdir(path))
    except OSError:
        return 0
