# SPDX-License-Identifier: Apache-2.0
"""`manifest.json` of a checkpoint: what its files are, and of which pod, containers and images. Written by
`cri.live.checkpoint`. Pure.

What is read is foreign: a checkpoint may have been anywhere. `parse` is the one place that decides what is believed;
paths of the host are not in it, and images are named by their ids alone.
"""

import ipaddress
import json
import re
from typing import Any, NamedTuple

from cri.store import codec
from cri.store.pods import Decided
from stage1.errors import BadRequest, Unsupported, WrongState
from stage1.machine import DISK_WINDOW_BYTES
from stage1.rootfs.checkpoint import File
from stage1.vm.window import Placed

VERSION = 1
MOST_BYTES = 16 << 20
"""Of a manifest: each container's configuration is in it."""
MOST_CONTAINERS = 256
_MOST_FILE_BYTES = 1 << 46
_MOST_PARTS, _MOST_TEXT = 64, 65536
_MOST_DEVICES, _MOST_ADDRESS = 16, 64
_MOST_NAME, _MOST_NAMES = 4096, 1 << 20
"""Characters of one name, reference or path, and of all together: what a pod that is restored writes down of them."""
_MOST_DECIDED, _MOST_VALUE = 64, 256
_PAGE_BYTES = 4096
_MOST_IDS = 1 << 31
"""Half of those that there can be, which no pod comes near to: the one that is restored has the others."""
_ID, _KEY_BYTES = re.compile("[0-9a-f]{64}"), 16
_MAC = re.compile("(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
"""Control characters, which `cri.translate.bounds` refuses in requests too."""


class Piece(NamedTuple):
    """A file of an image at `offset` of the window, and which file it was (`stage1.snapshot.machine.identity`)."""

    offset: int
    size: int
    identity: str


class Device(NamedTuple):
    """A network device of the guest, whose addresses the restoring side sets up."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]


class SavedContainer(NamedTuple):
    """A container that ran: `id` is how its guest knows it; the stream ids are as in `ContainerRecord`. `mounts` are
    where its volumes are in it, in their order. `config` is its ContainerConfig's bytes.
    """

    id: str
    name: str
    attempt: int
    image_id: str
    image_ref: str
    window_image: str
    config: bytes
    mounts: tuple[str, ...] = ()
    stdin: int = 0
    stdout: int = 0
    stderr: int = 0
    decided: tuple[Decided, ...] = ()


class SavedPod(NamedTuple):
    """The pod as it was asked for (`config`, a PodSandboxConfig's bytes), the memory of its VM, and its link: the
    secret, and up to which number ids may have been used. `decided` is what a copy has, too, of a container as well.
    """

    id: str
    name: str
    namespace: str
    uid: str
    handler: str
    config: bytes
    memory_mib: int
    link_key: bytes
    ids: int
    decided: tuple[Decided, ...] = ()


class Part(NamedTuple):
    """Something that the VM was made of, and which."""

    name: str
    what: str


class Manifest(NamedTuple):
    """`made_ns` is the time of the cut, since 1970."""

    made_ns: int
    pod: SavedPod
    containers: tuple[SavedContainer, ...]
    images: tuple[Placed, ...]
    pieces: tuple[Piece, ...]
    devices: tuple[Device, ...]
    made_of: tuple[Part, ...]
    guest: File
    disk: File = File()


def dump(manifest: Manifest) -> bytes:
    """Return the manifest as the content of its file. Raises WrongState for one that `parse` would not take."""
    text = json.dumps({"v": VERSION, "kind": "pod checkpoint", **codec.dump(manifest)}, separators=(",", ":"))
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"what is written of its containers has {len(text)} bytes, and {MOST_BYTES} can be read")
        _check(manifest)
    except ValueError as error:
        title = f"{manifest.pod.namespace}/{manifest.pod.name}"
        raise WrongState(f"pod {title} can't be in a checkpoint: {str(error)[:200]}") from None
    return text.encode()


def parse(data: bytes) -> Manifest:
    """Parse what `dump` made. Raises BadRequest with the reason when it is something else, Unsupported for other
    versions.
    """
    if len(data) > MOST_BYTES:
        raise BadRequest(f"a checkpoint's manifest of {len(data)} bytes is too long; at most {MOST_BYTES} are read")
    try:
        document = _document(data)
        if not isinstance(document, dict) or document.get("kind") != "pod checkpoint":
            raise ValueError("its kind is not that of a checkpoint")
        if (version := document.get("v")) != VERSION:
            raise Unsupported(
                f"the checkpoint has version {str(version)[:20]!r}, and this clearpod reads {VERSION}; make a new one"
            )
        manifest = codec.load(Manifest, document)
        _check(manifest)
    except ValueError as error:
        why = str(error)[:200]
        raise BadRequest(f"the checkpoint's manifest.json can't be parsed: {why}; make a new checkpoint") from None
    return manifest


def _document(data: bytes) -> Any:
    """Raises ValueError, in words for people."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON, or nested too deeply") from None


def _check(manifest: Manifest) -> None:
    """Raises ValueError."""
    pod = manifest.pod
    _require(manifest.made_ns, (0, 1 << 63), what="made_ns")
    _require(pod.memory_mib, (1, 1 << 30), what="memory_mib")
    _require(pod.ids, (0, _MOST_IDS), what="ids")
    if not _ID.fullmatch(pod.id) or len(pod.link_key) != _KEY_BYTES:
        raise ValueError("the pod's id or link_key is invalid")
    _check_files(manifest)
    _check_window(tuple((one.offset, one.size, one.name) for one in manifest.images), what="an image")
    _check_window(tuple((*one,) for one in manifest.pieces), what="a piece of an image")
    _check_devices(manifest.devices)
    _check_containers(manifest)
    for fields in (pod.decided, *(one.decided for one in manifest.containers)):
        if len(fields) > _MOST_DECIDED or any(len(one.value) > _MOST_VALUE for one in fields):
            raise ValueError("what was decided of a pod or container is too long")
    if len(manifest.made_of) > _MOST_PARTS or any(len(one.what) > _MOST_TEXT for one in manifest.made_of):
        raise ValueError("made_of is too long")


def _check_files(manifest: Manifest) -> None:
    for file in (manifest.guest, manifest.disk):
        _require(file.size_bytes, (0, _MOST_FILE_BYTES), what="size_bytes")
        if file != File() and not _ID.fullmatch(file.sha256):
            raise ValueError(f"sha256 {file.sha256[:80]!r} is not a digest")
    if manifest.guest == File():
        raise ValueError("it has no guest")
    scratch = next((one.what for one in manifest.made_of if one.name == "scratch"), "0")
    if not (scratch.isascii() and scratch.isdigit() and manifest.disk.size_bytes <= int(scratch)):
        raise ValueError("its disk is larger than that of its pod")


def _check_window(places: tuple[tuple[int, int, str], ...], *, what: str) -> None:
    end = 0
    for offset, size, name in sorted(places):
        _require(size, (1, DISK_WINDOW_BYTES), what=f"the size of {what}")
        _require(offset, (end, DISK_WINDOW_BYTES - size), what=f"the offset of {what}")
        if (offset | size) % _PAGE_BYTES or len(name) > _MOST_TEXT:
            raise ValueError(f"{what} at {offset} is not page-aligned, or its name is too long")
        end = offset + size


def _check_devices(devices: tuple[Device, ...]) -> None:
    if len(devices) > _MOST_DEVICES or any(len(one.addresses) > _MOST_PARTS for one in devices):
        raise ValueError("it has too many network devices or addresses")
    for one in devices:
        _require(one.mtu, (0, 1 << 16), what="an mtu")
        if len(one.name) > _MOST_ADDRESS or not one.name.isprintable() or not _MAC.fullmatch(one.mac):
            raise ValueError(
                f"the network device {one.name[:80]!r} has an invalid name, or the address {one.mac[:80]!r}"
            )
        for address in one.addresses:
            ipaddress.ip_interface(address[:_MOST_ADDRESS])


def _check_containers(manifest: Manifest) -> None:
    containers = manifest.containers
    if not 0 < len(containers) <= MOST_CONTAINERS:
        raise ValueError(f"it has {len(containers)} containers, and must have 1 to {MOST_CONTAINERS}")
    _check_names(manifest)
    for one in containers:
        if not _ID.fullmatch(one.id) or not one.name:
            raise ValueError(f"a container has the id {one.id[:80]!r} and the name {one.name[:80]!r}")
        for stream in (one.stdin, one.stdout, one.stderr):
            _require(stream, (0, manifest.pod.ids), what="a stream")
    if len({one.id for one in containers}) < len(containers) or len({one.name for one in containers}) < len(containers):
        raise ValueError("two containers have one id or name")


def _check_names(manifest: Manifest) -> None:
    pod, names = manifest.pod, 0
    of_pod = (pod.name, pod.namespace, pod.uid, pod.handler)
    of_containers = ((one.name, one.image_id, one.image_ref, one.window_image) for one in manifest.containers)
    mounts = (one.mounts for one in manifest.containers)
    of_machine = ((*(one.name for one in manifest.made_of), *(one.name for one in manifest.images)),)
    decided = ((*pod.decided, *(field for one in manifest.containers for field in one.decided)),)
    of_fields = ([text for field in fields for text in field] for fields in decided)
    for text in (text for texts in (of_pod, *of_containers, *mounts, *of_machine, *of_fields) for text in texts):
        names += len(text)
        if len(text) > _MOST_NAME or names > _MOST_NAMES or _CONTROL.search(text):
            raise ValueError(f"the name {text[:80]!r} is too long, or has a control character, or there are too many")


def _require(number: Any, bounds: tuple[int, int], *, what: str) -> None:
    least, most = bounds
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}, and must be {least} to {most}")
