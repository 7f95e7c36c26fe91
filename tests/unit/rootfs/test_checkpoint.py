# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint: digests that do not depend on holes, and a place that is whole or empty."""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import AlreadyExists, BadRequest, NoSpace, TimedOut
from stage1.linux import beneath
from stage1.linux.files import NotPlain
from stage1.rootfs import checkpoint
from stage1.snapshot.format import Manifest
from stage1.snapshot.load import check_files

BLOCK = 1 << 16


def _written(path: Path, pieces: dict[int, bytes], size: int) -> checkpoint.File:
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return checkpoint.examined(str(path))


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ({}, 0),
        ({}, 10 * BLOCK),
        ({5000: b"x"}, 3 * BLOCK),
        ({BLOCK - 1: b"xy", 4 * BLOCK + 12288: b"z" * 5000}, 5 * BLOCK + 17),
        ({9 * BLOCK: b"end"}, 9 * BLOCK + 3),
    ],
)
def test_holes_and_zeros_are_the_same(tmp_path: Path, pieces: dict[int, bytes], size: int) -> None:
    sparse = _written(tmp_path / "sparse", pieces, size)
    whole = bytearray(size)
    for offset, data in pieces.items():
        whole[offset : offset + len(data)] = data
    (tmp_path / "whole").write_bytes(whole)
    assert checkpoint.examined(str(tmp_path / "whole")) == sparse and sparse.size_bytes == size
    blocks = {number: bytes(whole[number * BLOCK : (number + 1) * BLOCK]) for number in range(-(-size // BLOCK))}
    expected = b"".join(number.to_bytes(8, "big") + data for number, data in blocks.items() if any(data))
    assert sparse.sha256 == hashlib.sha256(expected).hexdigest()


def test_a_byte_or_a_place_more_is_another_file(tmp_path: Path) -> None:
    made = [
        _written(tmp_path / "a", {0: b"x"}, BLOCK),
        _written(tmp_path / "b", {1: b"x"}, BLOCK),
        _written(tmp_path / "c", {BLOCK: b"x"}, 2 * BLOCK),
        _written(tmp_path / "d", {0: b"x"}, BLOCK + 1),
    ]
    assert len(set(made)) == 4


KEY = bytes(range(1, 17))


@pytest.mark.parametrize(
    "offset", [0, 1, 4096, BLOCK - 16, BLOCK - 15, BLOCK - 1, BLOCK, 5 * BLOCK - 8, 6 * BLOCK - 16]
)
def test_a_key_is_detected_at_any_offset(tmp_path: Path, offset: int) -> None:
    size = 6 * BLOCK
    for data, is_there in ((KEY, True), (KEY[:-1] + b"x", False), (KEY[1:], False)):
        _written(tmp_path / "guest", {0: b"x", offset: data}, size)
        search = checkpoint.Search(KEY)
        checkpoint.examined(str(tmp_path / "guest"), visit=search)
        assert search.is_there is is_there


def test_a_guest_without_the_key_of_its_manifest_is_refused_at_once(tmp_path: Path) -> None:
    """Who knows another one waited for its agent as long as for a boot."""
    guest = _written(tmp_path / checkpoint.GUEST, {3 * BLOCK + 7: KEY}, 4 * BLOCK)
    os.chmod(tmp_path / checkpoint.GUEST, 0o600)
    manifest = Manifest({}, {checkpoint.GUEST: guest})
    check_files(str(tmp_path), manifest, link_key=KEY)
    with pytest.raises(BadRequest, match=f"{tmp_path}/manifest.json has a link_key"):
        check_files(str(tmp_path), manifest, link_key=KEY[::-1])
    with pytest.raises(BadRequest, match="nothing of guest"):
        check_files(str(tmp_path), Manifest({}), link_key=KEY)


def test_an_empty_file_has_no_key_and_each_file_the_empty_one(tmp_path: Path) -> None:
    (tmp_path / "guest").write_bytes(b"")
    for key in (KEY, b""):
        search = checkpoint.Search(key)
        checkpoint.examined(str(tmp_path / "guest"), visit=search)
        assert search.is_there is (not key)


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


ODD: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "socket": _listen,
    "symbolic link": lambda path: path.symlink_to("/etc/passwd"),
    "character device": lambda path: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5)),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ODD)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, what: str) -> None:
    """Who unpacks a checkpoint of somebody else may get anything; a thread that opens a FIFO never comes back."""
    ODD[what](tmp_path / "guest")
    with pytest.raises(NotPlain, match=what):
        checkpoint.examined(str(tmp_path / "guest"))


def test_a_file_that_others_can_change_afterwards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "guest").write_bytes(b"x")
    for mode, owner in ((0o620, 0), (0o602, 0), (0o600, 12345)):
        (tmp_path / "guest").chmod(mode)
        os.chown(tmp_path / "guest", owner, 0)
        with pytest.raises(BadRequest, match="others"):
            checkpoint.examined(str(tmp_path / "guest"))
    os.chown(tmp_path / "guest", 0, 0)
    (tmp_path / "guest").chmod(0o644)
    assert checkpoint.examined(str(tmp_path / "guest")).size_bytes == 1


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, Path]:
    """A pod's directory, and where its checkpoint goes."""
    for name in ("pod", "output"):
        (tmp_path / name).mkdir(0o700)
    return str(tmp_path / "pod"), tmp_path / "output"


def test_it_is_whole_once_it_is_sealed_and_abandoned_before(places: tuple[str, Path]) -> None:
    directory, output = places
    checkpoint.begin(directory, str(output))
    assert (output / checkpoint.GUEST).stat().st_mode & 0o777 == 0o600
    checkpoint.make(f"{output}/{checkpoint.DISK}")
    (output / "manifest.json.0123~").touch()
    (output / "of-somebody-else").touch()
    checkpoint.abandon(directory)
    checkpoint.abandon(directory)
    assert os.listdir(output) == ["of-somebody-else"] and os.listdir(directory) == []
    (output / "of-somebody-else").unlink()
    checkpoint.begin(directory, str(output))
    checkpoint.seal(directory, str(output), manifest=b"{}", is_awaited=lambda: True)
    checkpoint.abandon(directory)
    assert sorted(os.listdir(output)) == [checkpoint.GUEST, checkpoint.MANIFEST] and os.listdir(directory) == []


def test_an_abandoned_one_is_cancelled_until_the_last_moment(places: tuple[str, Path]) -> None:
    directory, output = places
    checkpoint.begin(directory, str(output))
    (output / checkpoint.GUEST).write_bytes(b"x" * BLOCK)
    with pytest.raises(TimedOut):
        checkpoint.examined(str(output / checkpoint.GUEST), lambda: False)
    with pytest.raises(TimedOut):
        checkpoint.seal(directory, str(output), manifest=b"{}", is_awaited=lambda: False)
    checkpoint.abandon(directory)
    assert os.listdir(output) == []


@pytest.mark.parametrize("is_late", [False, True], ids=["after", "at the same moment"])
def test_of_two_pods_that_are_written_to_one_place_one_is(
    places: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """And the other one, which removes what it has made, removes nothing of it."""
    directory, output = places
    other = tmp_path / "other"
    other.mkdir(0o700)
    checkpoint.begin(directory, str(output))
    if is_late:  # the place was empty when it was looked at
        monkeypatch.setattr(beneath.Root, "names", lambda *_, **__: [])
    with pytest.raises(AlreadyExists, match=str(output)):
        checkpoint.begin(str(other), str(output))
    monkeypatch.undo()
    checkpoint.abandon(str(other))
    assert os.listdir(output) == [checkpoint.GUEST] and os.listdir(other) == []


def test_a_place_that_is_gone_is_no_reason_to_fail(places: tuple[str, Path]) -> None:
    directory, output = places
    checkpoint.begin(directory, str(output))
    (output / checkpoint.GUEST).unlink()
    output.rmdir()
    checkpoint.abandon(directory)
    assert os.listdir(directory) == []
    checkpoint.abandon(f"{directory}/none")


def test_a_full_disk_is_no_space(places: tuple[str, Path], tiny_disk: Path) -> None:
    directory, _ = places
    tiny_disk.chmod(0o700)
    output = tiny_disk / "output"
    output.mkdir(0o700)
    checkpoint.begin(directory, str(output))
    with pytest.raises(NoSpace, match="manifest"):
        checkpoint.seal(directory, str(output), manifest=bytes(64 << 20), is_awaited=lambda: True)
    checkpoint.abandon(directory)
    assert os.listdir(output) == []
