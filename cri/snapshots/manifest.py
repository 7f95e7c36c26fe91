# SPDX-License-Identifier: Apache-2.0
"""`manifest.json` of a pod's snapshot: that of `stage1.snapshot.format`, and in its `more` of which pod and containers
it is. Pure, but for `read`.

What is read is foreign: a checkpoint may have been anywhere. `parse` is the one place that decides what is believed;
images are named by their ids alone, and no path in it is used.
"""

import ipaddress
import re
from typing import Any, NamedTuple

from cri.store import codec
from cri.store.pods import Decided, SavedContainer
from stage1.errors import BadRequest, WrongState
from stage1.machine import DISK_WINDOW_BYTES
from stage1.rootfs import checkpoint as place
from stage1.snapshot.format import MOST_BYTES, Manifest, parsed

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


class SavedPod(NamedTuple):
    """The pod as it was asked for (`config`, a PodSandboxConfig's bytes), at the time `made_ns` since 1970, and its
    link: the secret, and up to which number ids may have been used. Its containers ran. `decided` is what a copy has,
    too, of a container as well.
    """

    id: str
    name: str
    namespace: str
    uid: str
    handler: str
    config: bytes
    made_ns: int
    link_key: bytes
    ids: int
    containers: tuple[SavedContainer, ...]
    decided: tuple[Decided, ...] = ()

    @property
    def title(self) -> str:
        """Namespace and name, for people."""
        return f"{self.namespace}/{self.name}"


class Saved(NamedTuple):
    """A snapshot of a pod, as its manifest has it."""

    machine: Manifest
    pod: SavedPod


def dump(saved: Saved) -> bytes:
    """Return the manifest as the content of its file. Raises WrongState for one that `parse` would not take."""
    text = saved.machine._replace(more=codec.dump(saved.pod)).encode()
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"what is written of its containers has {len(text)} bytes, and {MOST_BYTES} can be read")
        _check(saved.machine, saved.pod)
    except ValueError as error:
        raise WrongState(f"pod {saved.pod.title} can't be in a snapshot: {str(error)[:200]}") from None
    return text


def read(path: str) -> Saved:
    """The manifest of the snapshot in `path`. Raises BadRequest, NotFound, KernelError."""
    place.check_directory(path)
    return parse(place.read_manifest(path, most=MOST_BYTES))


def parse(data: bytes) -> Saved:
    """Parse what `dump` made. Raises BadRequest with the reason when it is something else."""
    try:
        machine = parsed(data)
        pod = codec.load(SavedPod, machine.more)
        _check(machine, pod)
    except ValueError as error:
        raise BadRequest(
            f"the snapshot's manifest.json can't be parsed: {str(error)[:200]}; make a new snapshot"
        ) from None
    return Saved(machine._replace(more={}), pod)


def _check(machine: Manifest, pod: SavedPod) -> None:
    """Raises ValueError."""
    _require(pod.made_ns, (0, 1 << 63), what="made_ns")
    _require(machine.memory_mib, (1, 1 << 30), what="memory_mib")
    _require(pod.ids, (0, _MOST_IDS), what="ids")
    if not _ID.fullmatch(pod.id) or len(pod.link_key) != _KEY_BYTES:
        raise ValueError("the pod's id or link_key is invalid")
    _check_files(machine)
    _check_window(tuple((one.offset, one.size, one.name) for one in machine.images), what="an image")
    _check_window(tuple((offset, size, file + was) for file, offset, size, was in machine.pieces), what="a piece")
    _check_devices(machine)
    _check_containers(machine, pod)
    for fields in (pod.decided, *(one.decided for one in pod.containers)):
        if len(fields) > _MOST_DECIDED or any(len(one.value) > _MOST_VALUE for one in fields):
            raise ValueError("what was decided of a pod or container is too long")
    if len(machine.made_of) > _MOST_PARTS or any(len(one) > _MOST_TEXT for one in machine.made_of.values()):
        raise ValueError("made_of is too long")


def _check_files(machine: Manifest) -> None:
    if machine.facts or not set(machine.files) <= {place.GUEST, place.DISK}:
        raise ValueError(f"it has other files than {place.GUEST} and {place.DISK}")
    for size, digest in machine.files.values():
        _require(size, (0, _MOST_FILE_BYTES), what="the size of a file")
        if not _ID.fullmatch(digest):
            raise ValueError(f"{digest[:80]!r} is not a digest")
    scratch, disk = machine.made_of.get("scratch", "0"), machine.files.get(place.DISK, (0, ""))[0]
    if not (scratch.isascii() and scratch.isdigit() and disk <= int(scratch)):
        raise ValueError("its disk is larger than that of its pod")


def _check_window(places: tuple[tuple[int, int, str], ...], *, what: str) -> None:
    end = 0
    for offset, size, name in sorted(places):
        _require(size, (1, DISK_WINDOW_BYTES), what=f"the size of {what}")
        _require(offset, (end, DISK_WINDOW_BYTES - size), what=f"the offset of {what}")
        if (offset | size) % _PAGE_BYTES or len(name) > _MOST_TEXT:
            raise ValueError(f"{what} at {offset} is not page-aligned, or its name is too long")
        end = offset + size


def _check_devices(machine: Manifest) -> None:
    devices = machine.interfaces
    if len(devices) > _MOST_DEVICES or any(len(one.addresses) > _MOST_PARTS for one in devices):
        raise ValueError("it has too many network devices or addresses")
    for one in devices:
        _require(one.mtu, (0, 1 << 16), what="an mtu")
        is_name = len(one.name) <= _MOST_ADDRESS and one.name.isprintable() and len(one.tap) <= _MOST_ADDRESS
        if not is_name or not _MAC.fullmatch(one.mac):
            raise ValueError(
                f"the network device {one.name[:80]!r} has an invalid name, or the address {one.mac[:80]!r}"
            )
        for address in one.addresses:
            ipaddress.ip_interface(address[:_MOST_ADDRESS])


def _check_containers(machine: Manifest, pod: SavedPod) -> None:
    containers = pod.containers
    if len(containers) > MOST_CONTAINERS:
        raise ValueError(f"it has {len(containers)} containers, and can have {MOST_CONTAINERS}")
    _check_names(machine, pod)
    for one in containers:
        if not _ID.fullmatch(one.guest_id) or not one.name:
            raise ValueError(f"a container has the id {one.guest_id[:80]!r} and the name {one.name[:80]!r}")
        for stream in (one.stdin, one.stdout, one.stderr):
            _require(stream, (0, pod.ids), what="a stream")
    if min(len({one.guest_id for one in containers}), len({one.name for one in containers})) < len(containers):
        raise ValueError("two containers have one id or name")


def _check_names(machine: Manifest, pod: SavedPod) -> None:
    names = 0
    of_containers = ((one.name, one.image_id, one.image_ref, one.window_image) for one in pod.containers)
    mounts = (one.mounts for one in pod.containers)
    of_machine = (*machine.made_of, *(one.name for one in machine.images))
    decided = (
        text for fields in (pod.decided, *(one.decided for one in pod.containers)) for one in fields for text in one
    )
    of_pod = (pod.name, pod.namespace, pod.uid, pod.handler)
    for text in (text for texts in (of_pod, *of_containers, *mounts, of_machine, decided) for text in texts):
        names += len(text)
        if len(text) > _MOST_NAME or names > _MOST_NAMES or _CONTROL.search(text):
            raise ValueError(f"the name {text[:80]!r} is too long, or has a control character, or there are too many")


def _require(number: Any, bounds: tuple[int, int], *, what: str) -> None:
    least, most = bounds
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}, and must be {least} to {most}")
