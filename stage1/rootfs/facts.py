# SPDX-License-Identifier: Apache-2.0
"""The facts of a layer's tar beyond its files, and the tar completed for mkfs.erofs.

Called by `layerjob` and `mergejob` in the confined process. mkfs.erofs gives mode 0777 to directories that the tar
leaves out, loops on a truncated tar, and takes `..` literally. So the tar is parsed on its way: errors are refused
before mkfs.erofs gets them, and missing entries are appended.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, refusal
from stage1.rootfs.passing import Passing
from stage1.rootfs.tarheaders import BLOCK, Entry, Headers, directory, renamed

_VERSION = 1
_NAME_BYTES = 255
_OPAQUE, _IGNORED = ".wh..wh..opq", b".wh..wh..opaque"
"""The mark of a directory that hides what lower layers have in it (OCI image-spec, layer.md), and the whiteout of a
name that no file has."""


class LayerFacts(NamedTuple):
    """Paths inside the image, relative, without a slash at either end; the root is ""."""

    implicit: tuple[str, ...]
    """Directories that hold something of this layer without an entry of their own: their owner and mode are
    those of the layer below (as when the tar is unpacked over it), or root and 0755."""
    capable: tuple[str, ...]
    """Files to which this layer gives file capabilities."""
    is_opaque: bool = False
    """Whether its root hides all that the layers below have. mkfs.erofs 1.8 fails on that mark, and does not get it."""


def complete(
    passing: Passing, give: Callable[[memoryview], object], *, limits: Limits, what: str
) -> tuple[LayerFacts, int]:
    """Check the tar of the layer `what` as it is `passing`, and `give` its implicit directories behind it; its facts,
    and how many entries it has.

    Raises Corrupt, OverLimit, Unsupported, KernelError, what `give` raises.
    """
    with Guard("read", what):
        # An archive of nothing is one, to some.
        headers = Headers(passing, limits=limits, what=what)
        scan = _Scan(headers, passing, limits=limits, what=what)
        passing.finish()
    give(memoryview(bytes(headers.lacks)))
    for path in scan.implicit:
        give(memoryview(directory(path)))
    give(memoryview(bytes(2 * BLOCK)))
    return LayerFacts(tuple(scan.implicit), tuple(sorted(scan.capable)), scan.is_opaque), scan.entries


class _Scan:
    def __init__(self, headers: Headers, passing: Passing, *, limits: Limits, what: str) -> None:
        self.explicit: set[str] = set()
        self.parents: set[str] = {""}
        self.capable: set[str] = set()
        self.is_opaque = False
        self.entries = 0
        self._limits, self._what = limits, what
        for entry in headers.entries():
            if self._add(entry) == _OPAQUE:
                self.is_opaque = True
                passing.replace(renamed(entry.header, _IGNORED))
            passing.approve()
        self.implicit = sorted(self.parents - self.explicit)

    def _add(self, entry: Entry) -> str:
        """Take an entry in; its path."""
        self.entries += 1
        path = name = normal(entry.name)
        cap = self._limits.path_depth
        if (depth := path.count("/") + 1) > cap:
            raise refusal(f"{self._what} has a path of {depth} components", key="path_depth", cap=cap)
        if any(len(part.encode("utf-8", "surrogateescape")) > _NAME_BYTES for part in path.split("/")):
            raise Corrupt(f"{self._what} has a file name of more than {_NAME_BYTES} bytes; push the image again")
        self._check_kind(path, entry)
        if entry.is_directory:
            self.explicit.add(path)
        while path and (path := path.rpartition("/")[0]) not in self.parents:
            self.parents.add(path)
        if len(self.parents) > self._limits.layer_entries:
            cap = self._limits.layer_entries
            raise refusal(f"{self._what} has files in more than {cap} directories", key="layer_entries", cap=cap)
        if entry.has_capability or (entry.is_link and normal(entry.link) in self.capable):
            self.capable.add(name)
        return name

    def _check_kind(self, path: str, entry: Entry) -> None:
        """Raises Corrupt for what mkfs.erofs 1.8 crashes on, a root that is no directory and a whiteout of no name, and
        for a whiteout with content, which it would take for further headers.
        """
        if not path and not entry.is_directory:
            raise Corrupt(f"{self._what} has a root that is not a directory; push the image again")
        name = path.rpartition("/")[2]
        if name.startswith(".wh.") and entry.size:
            what = f"{self._what} has the whiteout {path[-200:]!r} of {entry.size} bytes"
            raise Corrupt(f"{what}, and whiteouts are empty; push the image again")
        if name in (".wh.", ".wh..", ".wh..."):
            raise Corrupt(f"{self._what} has the whiteout {path[-200:]!r}, which names nothing; push the image again")


def normal(name: str) -> str:
    """`name` relative to the root, without `.` and double slashes. Raises Corrupt when it has `..`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Corrupt(f"a layer has an entry outside of its root: {name!r}; it is not a container image")
    return "/".join(parts)


def store(path: str, facts: LayerFacts) -> None:
    """Write the facts of a layer to `path`, whole or not at all."""
    document = {"v": _VERSION, "implicit": facts.implicit, "capable": facts.capable, "opaque": facts.is_opaque}
    files.write_atomic(path, json.dumps(document).encode())


def load(path: str) -> LayerFacts:
    """The facts that `store` wrote. Raises Corrupt when they are damaged or of another version."""
    try:
        document = json.loads(files.read(path))
        if document["v"] == _VERSION:
            is_opaque = document.get("opaque") is True  # not there in those that were written first
            return LayerFacts(tuple(document["implicit"]), tuple(document["capable"]), is_opaque)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Corrupt(f"{path} is damaged or of another version of clearpod; remove the image and pull it again")
