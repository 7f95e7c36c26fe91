# SPDX-License-Identifier: Apache-2.0
"""Images into a window and out of it again: what the record says, and what is left by a process killed on the way."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, NoSpace, VmFailed
from stage1.vm import mapping
from stage1.vm.window import Placed, Window
from tests.fakes.window import FakeWindow

PAGE = 4096
SIZE = 16 * PAGE


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs after it."""


@pytest.fixture
def window(tmp_path: Path) -> Iterator[FakeWindow]:
    """The window of the pod whose directory is tmp_path."""
    mapping.create(str(tmp_path), SIZE)
    with FakeWindow(f"{tmp_path}/dax.sock", SIZE) as result:
        yield result


def pieces(root: Path, *letters: str) -> list[tuple[str, int, int]]:
    """An image of files of two pages each, with a page between them."""
    result = []
    for number, letter in enumerate(letters):
        path = root / f"file-{letter}"
        path.write_bytes(letter.encode() * 2 * PAGE)
        result.append((str(path), 3 * PAGE * number, 2 * PAGE))
    return result


def recorded(root: Path) -> tuple[Placed, ...]:
    result = mapping.find(str(root))
    assert result is not None
    return result.images


def test_an_image_of_several_files_is_mapped_as_its_table_has_it(tmp_path: Path, window: FakeWindow) -> None:
    first = mapping.put_in(str(tmp_path), "first", pieces=pieces(tmp_path, "a"))
    second = mapping.put_in(str(tmp_path), "second", pieces=pieces(tmp_path, "b", "c"))
    assert (first, second) == (Placed("first", 0, 2 * PAGE), Placed("second", 2 * PAGE, 5 * PAGE))
    seen = window.at(0, SIZE)
    assert seen[::PAGE] == b"aabb\0cc" + bytes(9)
    assert recorded(tmp_path) == (first, second)
    mapping.take_out(str(tmp_path), "first")
    mapping.take_out(str(tmp_path), "first")
    assert recorded(tmp_path) == (second,) and window.at(0, SIZE)[::PAGE] == b"\0\0bb\0cc" + bytes(9)


def test_what_does_not_fit_is_reported_with_sizes_and_changes_nothing(tmp_path: Path, window: FakeWindow) -> None:
    large = [(path, 0, 400 << 20) for path, _, _ in pieces(tmp_path, "a")]
    with pytest.raises(NoSpace, match=r"400 MiB .*window of 0 MiB .* 0 MiB"):
        mapping.put_in(str(tmp_path), "large", pieces=large)
    assert recorded(tmp_path) == () and window.requests == []


def test_a_pod_without_a_window_has_none(tmp_path: Path) -> None:
    assert mapping.find(str(tmp_path)) is None
    mapping.take_out(str(tmp_path), "any")


@pytest.mark.parametrize("fault", ["refused", "hung up", "absent"])
def test_a_failure_midway_leaves_nothing(tmp_path: Path, window: FakeWindow, fault: str) -> None:
    image = pieces(tmp_path, "a", "b")

    def fail(request: str) -> None:
        if request.startswith(f"map {3 * PAGE}") and fault == "hung up":
            raise ConnectionResetError

    window.before = fail
    if fault == "refused":
        os.truncate(image[1][0], PAGE)
    if fault == "absent":
        os.unlink(image[1][0])
    with pytest.raises(KernelError if fault == "absent" else VmFailed):
        mapping.put_in(str(tmp_path), "image", pieces=image)
    assert recorded(tmp_path) == () and window.pieces == {}


def test_a_vmm_that_is_gone_is_reported_and_the_record_stays_for_a_retry(tmp_path: Path, window: FakeWindow) -> None:
    place = mapping.put_in(str(tmp_path), "image", pieces=pieces(tmp_path, "a"))
    window.close()
    with pytest.raises(VmFailed, match=r"answer at .*/dax\.sock"):
        mapping.take_out(str(tmp_path), "image")
    with pytest.raises(VmFailed, match=r"answer"):
        mapping.put_in(str(tmp_path), "other", pieces=pieces(tmp_path, "b"))
    assert place in recorded(tmp_path)


@pytest.mark.parametrize("kill_at", range(6))
def test_after_a_kill_the_record_has_all_that_may_be_mapped(
    tmp_path: Path, window: FakeWindow, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    """The kill is at the nth system call of put_in or take_out that has an effect; what follows is a new process."""
    image, count = pieces(tmp_path, "a", "b"), 0
    rename, send = os.rename, socket.send_fds

    def counted(call: object, *args: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count > kill_at:
            raise Killed
        return call(*args, **options)  # type: ignore[operator]

    def come_and_go() -> None:
        mapping.put_in(str(tmp_path), "image", pieces=image)
        mapping.take_out(str(tmp_path), "image")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *args, **options: counted(rename, *args, **options))
        patch.setattr(socket, "send_fds", lambda *args: counted(send, *args))
        with pytest.raises(Killed):
            come_and_go()
    mapped = set(window.pieces)
    known = {at for one in recorded(tmp_path) for at in range(one.offset, one.end)}
    assert mapped <= known
    for one in recorded(tmp_path):
        mapping.take_out(str(tmp_path), one.name)
    assert recorded(tmp_path) == () and window.pieces == {}
    place = mapping.put_in(str(tmp_path), "image", pieces=image)
    assert place.offset == 0 and window.at(0, SIZE)[::PAGE] == b"aa\0bb" + bytes(11)


def test_the_record_has_a_version_and_an_empty_window_is_one(tmp_path: Path) -> None:
    mapping.create(str(tmp_path), SIZE)
    assert mapping.find(str(tmp_path)) == Window(SIZE)
    assert '"v": 1' in (tmp_path / "window.json").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"size": 1}',
        '{"size": "1", "images": []}',
        '{"size": -1, "images": []}',
        '{"size": 8192, "images": [["a", "0", 1]]}',
        '{"size": 8192, "images": [["a", 0, 1e400]]}',
    ],
)
def test_a_damaged_record_is_reported_and_not_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / "window.json").write_text(text)
    with pytest.raises(VmFailed, match=r"window\.json is damaged"):
        mapping.find(str(tmp_path))


def test_a_link_in_the_place_of_the_socket_is_not_connected_to(tmp_path: Path) -> None:
    """Else whoever can write there could have images put into the VM of another pod."""
    other = tmp_path / "other"
    other.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(other / "dax.sock"))
        listener.listen()
        (tmp_path / "dax.sock").symlink_to(other / "dax.sock")
        (tmp_path / "file").write_bytes(b"x" * PAGE)
        mapping.create(str(tmp_path), 8 * PAGE)
        with pytest.raises(VmFailed, match="symbolic link"):
            mapping.put_in(str(tmp_path), "image", pieces=((str(tmp_path / "file"), 0, PAGE),))
