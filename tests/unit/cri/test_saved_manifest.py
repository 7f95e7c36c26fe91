# SPDX-License-Identifier: Apache-2.0
"""The manifest of a checkpoint is foreign: what is believed of it, and in what words the rest is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cri.snapshots import manifest
from cri.snapshots.manifest import Saved, SavedPod
from cri.store.pods import SavedContainer
from stage1.errors import BadRequest, WrongState
from stage1.pod.network import Interface
from stage1.snapshot.format import MOST_BYTES, Manifest
from stage1.vm.window import Placed

ID, OTHER = "a" * 64, "b" * 64
MACHINE = Manifest(
    {"kernel": "/vmlinux 1 2 3", "scratch": str(4 << 30)},
    {"guest": (1 << 20, "c" * 64), "disk": (4 << 30, "d" * 64)},
    memory_mib=128,
    pieces=(("/merged", 0, 4096, "/merged 1 2 3"), ("/layer", 8192, 8192, "/layer 1 2 3")),
    images=(Placed("1" * 64, 0, 16384),),
    interfaces=(Interface("eth0", "02:00:00:00:00:01", 1500, ("10.0.0.2/24",)),),
)
CONTAINERS = (
    SavedContainer(OTHER, "one", 0, "sha256:1", "ref", "1", ("/map",), 0, 7, 8, config=b"config"),
    SavedContainer(ID, "two", 3, "sha256:1", "ref", "1"),
)
POD = SavedPod(ID, "web", "default", "uid", "", b"\x00config", 1_700_000_000_000_000_000, b"k" * 16, 1024, CONTAINERS)
MADE = Saved(MACHINE, POD)


def _changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(manifest.dump(MADE))
    change(document)
    return json.dumps(document).encode()


def _with(*containers: SavedContainer) -> Saved:
    return Saved(MACHINE, POD._replace(containers=containers))


def test_what_was_written_is_read_again() -> None:
    named = _with(CONTAINERS[0]._replace(name="a\u00a0b\u200dc", mounts=("/data\u00a0\u202e",)))
    for made in (MADE, Saved(MACHINE._replace(files={}), POD), _with(), named):
        assert manifest.parse(manifest.dump(made)) == made
    assert manifest.parse(_changed(lambda one: one.update(of_a_later_version=[1]))) == MADE


def _many(count: int, size: int) -> tuple[SavedContainer, ...]:
    one = CONTAINERS[1]
    return tuple(
        one._replace(guest_id=f"{number:064x}", name=f"c{number}", config=bytes(size)) for number in range(count)
    )


@pytest.mark.parametrize(("containers", "word"), [(_many(257, 0), "257"), (_many(7, 2 << 20), str(MOST_BYTES))])
def test_what_could_not_be_read_again_is_not_written(containers: tuple[SavedContainer, ...], word: str) -> None:
    """Seven containers with as many arguments as there may be are more than a manifest has."""
    with pytest.raises(WrongState, match=f"default/web.*{word}"):
        manifest.dump(_with(*containers))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}", b'{"v": 1}', b'{"v": "1"}', b'{"v": 9}',
     b'{"v": 1, "made_of": [], "files": 1}', b" " * (MOST_BYTES + 1), b" " * MOST_BYTES + b"{}"],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest, match="manifest"):
        manifest.parse(data)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no pod": lambda one: one.pop("more"),
    "no files": lambda one: one.pop("files"),
    "another file": lambda one: one["files"].update(x=[1, "c" * 64]),
    "facts": lambda one: one.update(facts={"guest": "1"}),
    "an id that is a path": lambda one: one["more"].update(id="../../etc/" + "a" * 54),
    "a container's id": lambda one: one["more"]["containers"][0].update(guest_id="../x"),
    "two of one id": lambda one: one["more"]["containers"][0].update(guest_id=ID),
    "two of one name": lambda one: one["more"]["containers"][0].update(name="two"),
    "a long name": lambda one: one["more"]["containers"][0].update(name="n" * 5000),
    "a name of two lines": lambda one: one["more"]["containers"][0].update(name="one\ntwo"),
    "a namespace of two lines": lambda one: one["more"].update(namespace="a\x1b[2Jb"),
    "a long uid": lambda one: one["more"].update(uid="u" * 5000),
    "a long reference": lambda one: one["more"]["containers"][0].update(image_ref="r" * 5000),
    "a long mount": lambda one: one["more"]["containers"][0].update(mounts=["/" + "m" * 5000]),
    "many mounts": lambda one: one["more"]["containers"][0].update(mounts=["/mount"] * 200_000),
    "a part with a long name": lambda one: one["made_of"].update({"p" * 5000: "x"}),
    "a device of two lines": lambda one: one["interfaces"][0].__setitem__(0, "eth\n0"),
    "no name": lambda one: one["more"]["containers"][0].update(name=""),
    "many containers": lambda one: one["more"].update(containers=one["more"]["containers"] * 200),
    "a stream beyond the ids": lambda one: one["more"]["containers"][0].update(stdout=1025),
    "ids of which hardly any is left": lambda one: one["more"].update(ids=(1 << 32) - 2),
    "a stream below 0": lambda one: one["more"]["containers"][0].update(stdout=-1),
    "a boolean for a number": lambda one: one.update(memory_mib=True),
    "a float for a number": lambda one: one.update(memory_mib=1.5),
    "infinity for a number": lambda one: one.update(memory_mib=float("inf")),
    "a text for a number": lambda one: one.update(memory_mib="1"),
    "a number for a text": lambda one: one["more"]["containers"][0].update(name=1),
    "a disk that is larger than the pod's": lambda one: one["files"]["disk"].__setitem__(0, (4 << 30) + 1),
    "a size that is no number": lambda one: one["made_of"].update(scratch="many"),
    "many devices": lambda one: one.update(interfaces=one["interfaces"] * 17),
    "a long address": lambda one: one["interfaces"][0].__setitem__(3, ["1" * 65]),
    "an address that is none": lambda one: one["interfaces"][0].__setitem__(3, ["10.0.0.2/24", "garbage"]),
    "an address of too many bits": lambda one: one["interfaces"][0].__setitem__(3, ["10.0.0.2/99"]),
    "a hardware address that is none": lambda one: one["interfaces"][0].__setitem__(1, "02:00:00:00:00:0g"),
    "an image behind the window": lambda one: one["images"][0].__setitem__(1, 1 << 40),
    "no memory of the VM": lambda one: one.update(memory_mib=0),
    "a huge number": lambda one: one.update(memory_mib=1 << 70),
    "a short key": lambda one: one["more"].update(link_key="aaaa"),
    "no digest": lambda one: one["files"]["guest"].__setitem__(1, "x" * 64),
    "a size below 0": lambda one: one["files"]["guest"].__setitem__(0, -1),
    "an endless file": lambda one: one["files"]["disk"].__setitem__(0, 1 << 60),
    "pieces over each other": lambda one: one["pieces"][1].__setitem__(1, 0),
    "a piece behind the window": lambda one: one["pieces"][1].__setitem__(1, 1 << 40),
    "a piece of no whole page": lambda one: one["pieces"][1].__setitem__(2, 100),
    "a piece without bytes": lambda one: one["pieces"][1].__setitem__(2, 0),
    "a long part": lambda one: one["made_of"].update(kernel="x" * 100_000),
    "many parts": lambda one: one.update(made_of={str(number): "" for number in range(65)}),
    "bytes that are none": lambda one: one["more"].update(config="aaa"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_not_be_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=r"manifest\.json"):
        manifest.parse(_changed(CHANGES[name]))
