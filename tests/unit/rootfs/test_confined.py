# SPDX-License-Identifier: Apache-2.0
"""What a confined process says and leaves is ours only if it is what we asked for: it may have been taken over."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import NoSpace, PodError, Unsupported
from stage1.rootfs import confined, worker
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, OverLimit
from stage1.rootfs.worker import Asker, Question

QUESTION, ASKER = Question("m", (), "the layer x", 1.0), Asker(Limits(memory_mib=5))


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (b"", Corrupt, "gave no answer"),
        (b"\xff\xfe{", Corrupt, "gave no answer"),
        (b"[" * 100_000, Corrupt, "gave no answer"),
        (b'{"n": ' + b"9" * 9000 + b"}", Corrupt, "gave no answer"),
        (b"[1]", Corrupt, "gave no answer"),
        (b'{"ok": 1, "error": "Corrupt"}', Corrupt, "gave no answer"),
        (b'{"error": "PodError", "sentence": "as if it were ours"}', Corrupt, "gave no answer"),
        (b'{"error": ["Corrupt"], "sentence": "x"}', Corrupt, "gave no answer"),
        (b'{"error": "Corrupt", "sentence": 7}', Corrupt, "gave no answer"),
        (b'{"error": "Corrupt", "sentence": "two\\nlines\\u001b[2J"}', Corrupt, r"^two\?lines\?\[2J$"),
        (b'{"error": "Unsupported", "sentence": "' + b"x" * 5000 + b'"}', Unsupported, "^x{1000}$"),
        (b'{"error": "NoSpace", "sentence": "full"}', NoSpace, "^full$"),
        (
            b'{"error": "Internal", "sentence": "E: x\\n (a.py, line 7)"}',
            Corrupt,
            r"layer x .*bug.*: E: x\? \(a",
        ),
        (b'{"error": "Internal"}', Corrupt, "gave no answer"),
        (b'{"error": "Memory", "sentence": ""}', OverLimit, r"layer x .*memory.*images.memory_mib = 5"),
    ],
)
def test_an_answer_is_an_error_of_the_known_kinds_on_one_line(text: bytes, kind: type[PodError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        worker._understood(QUESTION, ASKER, text=text)
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_an_answer_is_what_was_returned() -> None:
    assert worker._understood(QUESTION, ASKER, text=b'{"ok": {"a": [1]}}') == {"a": [1]}


@pytest.fixture
def box(tmp_path: Path) -> str:
    worker.make_box(f"{tmp_path}/box", uid=0)
    return f"{tmp_path}/box"


def a_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def two_names(path: Path) -> None:
    path.write_text("x")
    os.link(path, f"{path}2")


def too_large(path: Path) -> None:
    path.write_bytes(bytes(101))


@pytest.mark.parametrize("make", [None, a_link, os.mkfifo, os.mkdir, two_names, too_large])
def test_what_is_no_plain_file_of_the_right_size_is_not_adopted(
    make: Callable[[Path], None] | None, box: str, tmp_path: Path
) -> None:
    if make:
        make(Path(box, "out", "made"))
    with pytest.raises(Corrupt):
        worker.adopt(box, "made", target=f"{tmp_path}/target", most_bytes=100)
    assert not os.path.lexists(tmp_path / "target")
    worker.remove_box(box)
    assert os.listdir(tmp_path) == []


def test_what_is_adopted_belongs_to_root_and_is_not_writable_for_others(box: str, tmp_path: Path) -> None:
    made, target = Path(box, "out", "made"), tmp_path / "target"
    made.write_text("x")
    made.chmod(0o6777)
    os.chown(made, 65530, 65530)
    worker.adopt(box, "made", target=str(target), most_bytes=100)
    result = target.stat()
    assert (stat.S_IMODE(result.st_mode), result.st_uid, result.st_gid) == (0o644, 0, 0)


def test_a_process_that_can_not_start_is_reported_as_ours() -> None:
    with pytest.raises(PodError, match="could not start") as caught:
        worker.ask(Question("stage1.nothing", ("x",), "the layer x", 60.0), Asker(Limits()))
    assert type(caught.value) is PodError


def test_an_unexpected_error_names_where_it_was_raised() -> None:
    def job() -> object:
        return b"".split(b",")[1]

    with pytest.raises(Corrupt, match=r"layer x .*IndexError: .* \(test_confined\.py, line \d+\)"):
        worker._understood(QUESTION, ASKER, text=confined._answer(job))
