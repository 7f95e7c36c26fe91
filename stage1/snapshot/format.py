# SPDX-License-Identifier: Apache-2.0
"""The manifest of a snapshot, of whatever kind; `cri.snapshots.manifest` has bounds for one that comes from elsewhere.
And a look at one template by its manifest, for rkt's pods, which start one VM and wait for each import: what only
makers of snapshots need is not here, and no guest's memory is read.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from stage1.errors import VmFailed
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.pod.network import Interface
from stage1.vm.template import Template
from stage1.vm.window import Placed

VERSION = 1
MANIFEST = "manifest.json"
REJECTED = "rejected"
"""The manifest's name when a template is no good; rkt's launcher gives it, too (images/launcher)."""
_USED_S = 3600
"""The resolution of a template's last use."""
MOST_BYTES = 1 << 24
"""Of the file, so that a damaged one can't fill the memory."""

Piece = tuple[str, int, int, str]
"""A file of an image, its offset on the disk for images, its bytes, and its `machine.identity`."""


class Manifest(NamedTuple):
    """`made_of` are the parts of `machine.parts`, or some of them; `files` length and digest of the snapshot's files by
    name, and `facts` what of them would be another after a change. `pieces` and `images` are what lay where on the disk
    for images, `interfaces` those of the guest. `more` is its maker's, values for JSON.
    """

    made_of: Mapping[str, str]
    files: Mapping[str, tuple[int, str]] = {}
    facts: Mapping[str, str] = {}
    memory_mib: int = 0
    pieces: tuple[Piece, ...] = ()
    images: tuple[Placed, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    more: Mapping[str, Any] = {}

    def encode(self) -> bytes:
        """Return the manifest as the content of its file."""
        return json.dumps({"v": VERSION, **self._asdict()}).encode()


def decode(text: bytes, *, of: str) -> Manifest:
    """The inverse of `encode`. Raises VmFailed, with the sentence's subject `of`, if it is damaged or of another
    version.
    """
    try:
        return parsed(text)
    except ValueError as error:
        raise VmFailed(f"{of} is damaged: {error}") from None


def parsed(text: bytes) -> Manifest:
    """Like `decode`. Raises ValueError for all that `encode` can't have made, in words for people."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON, or nested too deeply") from None
    if type(record) is not dict or record.get("v") != VERSION:
        version = str(record.get("v"))[:20] if type(record) is dict else "none"
        raise ValueError(f"its version is {version}, and this clearpod reads {VERSION}; make a new one")
    try:
        return Manifest(
            _texts(record["made_of"]),
            {_text(name): (_number(size), _text(digest)) for name, (size, digest) in record["files"].items()},
            _texts(record["facts"]),
            _number(record["memory_mib"]),
            tuple((_text(a), _number(b), _number(c), _text(d)) for a, b, c, d in record["pieces"]),
            *_of_pod(record),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not what was written: {error!r:.100}") from None


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r:.80} is no text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.80} is no number")
    return value


def _texts(record: dict[Any, Any]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in record.items()}


def _of_pod(record: dict[str, Any]) -> tuple[tuple[Placed, ...], tuple[Interface, ...], dict[str, Any]]:
    return (
        tuple(Placed(_text(a), _number(b), _number(c)) for a, b, c in record["images"]),
        tuple(
            Interface(_text(a), _text(b), _number(c), tuple(map(_text, d)), _text(e))
            for a, b, c, d, e in record["interfaces"]
        ),
        {**record["more"]},
    )


def find_at_once(top: str, name: str) -> Template | None:
    """Return the template `name` of the store at `top`, None when there is none; for rkt's pods, which start one VM. A
    change is known by sizes, times and inodes: a checksum would take as long as a good part of a boot. One that is
    damaged is rejected first. Raises VmFailed, KernelError.
    """
    template = Template(f"{top}/{name}")
    try:
        manifest = read_template(template)
        if manifest.facts != written(template):
            raise VmFailed(f"the template {template.directory} was changed since it was written")
    except FileNotFoundError:
        return None
    except VmFailed:
        with Guard("rename", f"{template.directory}/{MANIFEST}"):  # the mark that its name is not to be used
            os.rename(f"{template.directory}/{MANIFEST}", f"{template.directory}/{REJECTED}")
        raise
    note_use(template)
    return template


def read_template(template: Template) -> Manifest:
    """The manifest of the template. Raises FileNotFoundError, VmFailed if it is damaged."""
    path = f"{template.directory}/{MANIFEST}"
    return decode(files.read(path)[: MOST_BYTES + 1], of=f"{path}, of a template,")


def written(template: Template) -> dict[str, str]:
    """Return the facts about the template's files as they stand in the manifest, by name."""
    names = (template.ram, template.state)
    return {os.path.basename(name): " ".join(map(str, one)) for name, one in zip(names, facts(template), strict=True)}


def facts(template: Template) -> tuple[tuple[int, ...], ...]:
    """Return facts that a change of the files would alter. Raises FileNotFoundError."""
    status = [os.stat(path) for path in (template.ram, template.state)]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in status)


def note_use(template: Template) -> None:
    """Note that it is used, for who removes those that were not. Best-effort."""
    path = f"{template.directory}/{MANIFEST}"
    try:
        if time.time() - os.stat(path).st_mtime > _USED_S:
            os.utime(path)
    except OSError:
        pass  # it is only about which one is removed first
