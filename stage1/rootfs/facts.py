# SPDX-License-Identifier: Apache-2.0
"""What a layer's tar says beyond its files, and the tar made whole for mkfs.erofs.

Called by `layers` and `merge`. mkfs.erofs gives mode 0777 to directories that the tar leaves out, spins for
ever on a tar that ends too early, and takes `..` literally. So the tar is read once here: what is wrong is
refused, what is missing is added at its end.
"""

import os
from typing import NamedTuple

from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

_VERSION = 1
_BLOCK = 512
_CAPABILITY = ("SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.security.capability")


class LayerFacts(NamedTuple):
    """Paths inside the image, relative, without a slash at either end; the root is ""."""

    implicit: tuple[str, ...]
    """Directories that hold something of this layer without an entry of their own: their owner and mode are
    those of the layer below (as when the tar is unpacked over it), or root and 0755."""
    capable: tuple[str, ...]
    """Files to which this layer gives file capabilities."""


def complete(tar_path: str) -> LayerFacts:
    """Check the tar and add its implicit directories. Raises Corrupt, NoSpace, KernelError."""
    import tarfile

    with Guard("read", tar_path):
        if not os.path.getsize(tar_path):
            # An archive of nothing, to some; tarfile wants its end marked.
            os.truncate(tar_path, _BLOCK)
        try:
            with tarfile.open(tar_path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
                scan = _Scan(tar)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise Corrupt(f"a layer is not a valid tar archive: {error}; push the image again") from None
    with Guard("write", tar_path):
        _append(tar_path, scan)
    return LayerFacts(tuple(scan.implicit), tuple(sorted(scan.capable)))


class _Scan:
    def __init__(self, tar: "TarFile") -> None:
        self.explicit: set[str] = set()
        self.parents: set[str] = {""}
        self.capable: set[str] = set()
        while (entry := tar.next()) is not None:
            # Else the archive object keeps every entry: a kilobyte for each file of the layer.
            tar.members = []  # type: ignore[attr-defined]
            self._add(entry)
        self.end: int = tar.offset
        self.implicit = sorted(self.parents - self.explicit)

    def _add(self, entry: "TarInfo") -> None:
        path = normal(entry.name)
        if entry.isdir():
            self.explicit.add(path)
        while path and (path := path.rpartition("/")[0]) not in self.parents:
            self.parents.add(path)
        linked = entry.islnk() and normal(entry.linkname) in self.capable
        if linked or any(key in entry.pax_headers for key in _CAPABILITY):
            self.capable.add(normal(entry.name))


def normal(name: str) -> str:
    """`name` relative to the root, without `.` and double slashes. Raises Corrupt when it has `..`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Corrupt(f"a layer has an entry outside of its root: {name!r}; it was not made for containers")
    return "/".join(parts)


def _append(tar_path: str, scan: _Scan) -> None:
    fd = os.open(tar_path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # The reader stops silently at a header that it can't read; only zeros may follow the last entry.
        if os.pread(fd, _BLOCK, scan.end).strip(b"\0"):
            raise Corrupt(f"a layer is not a valid tar archive: garbage at byte {scan.end}; push the image again")
        os.ftruncate(fd, scan.end)
        os.lseek(fd, scan.end, os.SEEK_SET)
        view = memoryview(b"".join(_directory(path) for path in scan.implicit) + bytes(2 * _BLOCK))
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _directory(path: str) -> bytes:
    import tarfile

    entry = tarfile.TarInfo(f"./{path}/" if path else "./")
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def store(path: str, facts: LayerFacts) -> None:
    """Write the facts of a layer to `path`, whole or not at all."""
    import json

    document = {"v": _VERSION, "implicit": facts.implicit, "capable": facts.capable}
    files.write_atomic(path, json.dumps(document).encode())


def load(path: str) -> LayerFacts:
    """The facts that `store` wrote. Raises Corrupt when they are damaged or of another version."""
    import json

    try:
        document = json.loads(files.read(path))
        if document["v"] == _VERSION:
            return LayerFacts(tuple(document["implicit"]), tuple(document["capable"]))
    except (ValueError, KeyError, TypeError):
        pass
    raise Corrupt(f"{path} is damaged or of another version of clearpod; remove the image and pull it again")
