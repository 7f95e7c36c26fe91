# SPDX-License-Identifier: Apache-2.0
"""The manifest of a checkpoint is foreign: what is believed of it, and in what words the rest is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cri.store import checkpoints
from cri.store.checkpoints import Device, Manifest, Part, Piece, SavedContainer, SavedPod
from stage1.errors import BadRequest, Unsupported, WrongState
from stage1.rootfs.checkpoint import File
from stage1.vm.window import Placed

ID, OTHER = "a" * 64, "b" * 64
MADE = Manifest(
    1_700_000_000_000_000_000,
    SavedPod(ID, "web", "default", "uid", "", b"\x00config", 128, b"k" * 16, 1024),
    (
        SavedContainer(OTHER, "one", 0, "sha256:1", "ref", "1", b"config", ("/map",), 0, 7, 8),
        SavedContainer(ID, "two", 3, "sha256:1", "ref", "1", b""),
    ),
    (Placed("1" * 64, 0, 16384),),
    (Piece(0, 4096, "/merged 1 2 3"), Piece(8192, 8192, "/layer 1 2 3")),
    (Device("eth0", "02:00:00:00:00:01", 1500, ("10.0.0.2/24",)),),
    (Part("kernel", "/vmlinux 1 2 3"), Part("scratch", str(4 << 30))),
    File(1 << 20, "c" * 64),
    File(4 << 30, "d" * 64),
)


def _changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(checkpoints.dump(MADE))
    change(document)
    return json.dumps(document).encode()


def test_what_was_written_is_read_again() -> None:
    assert checkpoints.parse(checkpoints.dump(MADE)) == MADE
    assert checkpoints.parse(_changed(lambda one: one.pop("disk"))) == MADE._replace(disk=File())
    assert checkpoints.parse(_changed(lambda one: one.update(of_a_later_version=[1]))) == MADE


def test_what_a_pod_may_be_called_is_read_again() -> None:
    names = MADE.containers[0]._replace(name="a\u00a0b\u200dc", mounts=("/data\u00a0\u202e",))
    made = MADE._replace(containers=(names,))
    assert checkpoints.parse(checkpoints.dump(made)) == made


def _many(count: int, size: int) -> tuple[SavedContainer, ...]:
    one = MADE.containers[1]
    return tuple(one._replace(id=f"{number:064x}", name=f"c{number}", config=bytes(size)) for number in range(count))


@pytest.mark.parametrize(
    ("containers", "word"),
    [(_many(257, 0), "257"), (_many(7, 2 << 20), str(checkpoints.MOST_BYTES)), ((), "0 containers")],
)
def test_what_could_not_be_read_again_is_not_written(containers: tuple[SavedContainer, ...], word: str) -> None:
    """Seven containers with as many arguments as there may be are more than a manifest has."""
    with pytest.raises(WrongState, match=f"default/web.*{word}"):
        checkpoints.dump(MADE._replace(containers=containers))


def test_another_version_is_reported() -> None:
    with pytest.raises(Unsupported, match="'9'"):
        checkpoints.parse(_changed(lambda one: one.update(v="9")))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}", b'{"kind": "pod checkpoint", "v": 1}', b'{"v": 1}',
     b" " * (checkpoints.MOST_BYTES + 1)],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest, match="manifest"):
        checkpoints.parse(data)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no pod": lambda one: one.pop("pod"),
    "no guest": lambda one: one.pop("guest"),
    "an empty guest": lambda one: one.update(guest={"size_bytes": 0, "sha256": ""}),
    "an id that is a path": lambda one: one["pod"].update(id="../../etc/" + "a" * 54),
    "a container's id": lambda one: one["containers"][0].update(id="../x"),
    "two of one id": lambda one: one["containers"][0].update(id=ID),
    "two of one name": lambda one: one["containers"][0].update(name="two"),
    "a long name": lambda one: one["containers"][0].update(name="n" * 5000),
    "a name of two lines": lambda one: one["containers"][0].update(name="one\ntwo"),
    "a namespace of two lines": lambda one: one["pod"].update(namespace="a\x1b[2Jb"),
    "a long uid": lambda one: one["pod"].update(uid="u" * 5000),
    "a long reference": lambda one: one["containers"][0].update(image_ref="r" * 5000),
    "a long mount": lambda one: one["containers"][0].update(mounts=["/" + "m" * 5000]),
    "many mounts": lambda one: one["containers"][0].update(mounts=["/mount"] * 200_000),
    "a part with a long name": lambda one: one["made_of"][0].update(name="p" * 5000),
    "a device of two lines": lambda one: one["devices"][0].update(name="eth\n0"),
    "no name": lambda one: one["containers"][0].update(name=""),
    "no containers": lambda one: one.update(containers=[]),
    "many containers": lambda one: one.update(containers=one["containers"] * 200),
    "a stream beyond the ids": lambda one: one["containers"][0].update(stdout=1025),
    "ids of which hardly any is left": lambda one: one["pod"].update(ids=(1 << 32) - 2),
    "a stream below 0": lambda one: one["containers"][0].update(stdout=-1),
    "a boolean for a number": lambda one: one["pod"].update(memory_mib=True),
    "a float for a number": lambda one: one["pod"].update(memory_mib=1.5),
    "a text for a number": lambda one: one["pod"].update(memory_mib="1"),
    "a number for a text": lambda one: one["containers"][0].update(name=1),
    "a disk that is larger than the pod's": lambda one: one["disk"].update(size_bytes=(4 << 30) + 1),
    "a size that is no number": lambda one: one["made_of"][1].update(what="many"),
    "many devices": lambda one: one.update(devices=one["devices"] * 17),
    "a long address": lambda one: one["devices"][0].update(addresses=["1" * 65]),
    "an address that is none": lambda one: one["devices"][0].update(addresses=["10.0.0.2/24", "garbage"]),
    "an address of too many bits": lambda one: one["devices"][0].update(addresses=["10.0.0.2/99"]),
    "a hardware address that is none": lambda one: one["devices"][0].update(mac="02:00:00:00:00:0g"),
    "an image behind the window": lambda one: one["images"][0].update(offset=1 << 40),
    "no memory of the VM": lambda one: one["pod"].update(memory_mib=0),
    "a huge number": lambda one: one["pod"].update(memory_mib=1 << 70),
    "a short key": lambda one: one["pod"].update(link_key="aaaa"),
    "no digest": lambda one: one["guest"].update(sha256="x" * 64),
    "a size below 0": lambda one: one["guest"].update(size_bytes=-1),
    "an endless file": lambda one: one["disk"].update(size_bytes=1 << 60),
    "pieces over each other": lambda one: one["pieces"][1].update(offset=0),
    "a piece behind the window": lambda one: one["pieces"][1].update(offset=1 << 40),
    "a piece of no whole page": lambda one: one["pieces"][1].update(size=100),
    "a piece without bytes": lambda one: one["pieces"][1].update(size=0),
    "a long part": lambda one: one["made_of"][0].update(what="x" * 100_000),
    "many parts": lambda one: one.update(made_of=one["made_of"] * 100),
    "bytes that are none": lambda one: one["pod"].update(config="aaa"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_not_be_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=r"manifest\.json"):
        checkpoints.parse(_changed(CHANGES[name]))
