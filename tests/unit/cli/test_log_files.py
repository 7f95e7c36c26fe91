# SPDX-License-Identifier: Apache-2.0
"""A container's log with the files that the kubelet has put away, as `clearpod logs` reads it."""

import gzip
import os
from itertools import chain
from pathlib import Path

import pytest

from cri.cli.view import logs
from cri.cli.view.logs import Entry, LogFile

OLD, OLDER, OLDEST = "20260103-000000", "20260102-000000", "20260101-000000"


def line(number: int, text: str = "") -> bytes:
    return f"2026-01-01T00:00:{number:02}.000000000Z stdout F {text or number}\n".encode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Lines 1 to 4 in four files, of which the oldest two are compressed; and what only looks like one of them."""
    directory = tmp_path / "main"
    directory.mkdir()
    (directory / f"0.log.{OLDEST}.gz").write_bytes(gzip.compress(line(1)))
    (directory / f"0.log.{OLDER}.gz").write_bytes(gzip.compress(line(2)))
    (directory / f"0.log.{OLD}").write_bytes(line(3))
    (directory / f"0.log.{OLD}.gz").write_bytes(b"not yet whole")
    (directory / f"0.log.{OLD}.tmp").write_bytes(line(9))
    (directory / f"10.log.{OLD}").write_bytes(line(9))
    (directory / "0.log").write_bytes(line(4))
    return directory / "0.log"


def read(log: Path, since_s: float = 0.0) -> list[bytes]:
    with LogFile(str(log), str(log.parents[1])) as file:
        return [one.text for one in chain.from_iterable(file.parts(since_s))]


def rotate(log: Path, stamp: str, *lines: int) -> None:
    """As kubelet does, with a daemon that writes these lines into the new file."""
    log.rename(f"{log}.{stamp}")
    log.write_bytes(b"".join(map(line, lines)))


def compress(log: Path, stamp: str) -> None:
    path = Path(f"{log}.{stamp}")
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def test_files_that_were_put_away_come_first_each_once(log: Path) -> None:
    assert read(log) == [b"1", b"2", b"3", b"4"]
    for stamp in (OLDEST, OLDER):
        os.utime(f"{log}.{stamp}.gz", (0, 1000))
    assert read(log, since_s=2000) == [b"3", b"4"]


def test_what_is_damaged_or_no_file_hides_nothing_else(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path(f"{log}.{OLDEST}.gz").write_bytes(gzip.compress(line(1) + os.urandom(5000))[:2000])
    Path(f"{log}.{OLDER}.gz").unlink()
    os.mkfifo(f"{log}.{OLDER}")
    assert read(log)[-2:] == [b"3", b"4"]
    warned = capfd.readouterr().err
    assert OLDEST in warned and OLDER in warned and warned.count("\n") == 2


@pytest.mark.parametrize(
    "lines, expected", [(0, []), (1, [b"4"]), (3, [b"2", b"3", b"4"]), (9, [b"1", b"2", b"3", b"4"])]
)
def test_the_last_lines_may_be_in_older_files(log: Path, lines: int, expected: list[bytes]) -> None:
    with LogFile(str(log), str(log.parent)) as file:
        assert [one.text for one in logs._last(file.parts(), lines)] == expected


@pytest.mark.parametrize("is_compressed", [False, True])
def test_who_follows_misses_nothing_however_often_the_file_is_rotated(log: Path, is_compressed: bool) -> None:
    with LogFile(str(log), str(log.parent)) as file:
        assert [one.text for one in chain.from_iterable(file.parts())] == [b"1", b"2", b"3", b"4"]
        with log.open("ab") as held:
            rotate(log, "20260104-000000", 6, 7)
            held.write(line(5))
        rotate(log, "20260105-000000", 8)
        if is_compressed:
            compress(log, "20260104-000000")
        rotate(log, "20260106-000000", 10)
        got: list[Entry] = [*file.entries()]
        assert [one.text for one in got] == [b"5", b"6", b"7", b"8", b"10"]
        assert [*file.entries()] == []
        log.unlink()
        assert [*file.entries()] == []
