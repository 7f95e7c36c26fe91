# SPDX-License-Identifier: Apache-2.0
"""Container logs: the CRI's format, and nothing lost or written twice when the daemon is killed between any
two steps.
"""

import os
import re
import stat
from pathlib import Path

import pytest

from cri.logs import ENTRY_BYTES, LogWriter, entries, timestamp

STAMP = b"2026-01-02T03:04:05.000000006Z"
BIG = b"x" * (ENTRY_BYTES + 5)
ENTRY = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([PF]) (.*)$")

CUTS = [
    (b"", False, [], b""),
    (b"one\n", False, [b"F one"], b""),
    (b"one\ntwo", False, [b"F one"], b"two"),
    (b"one\ntwo", True, [b"F one", b"P two"], b""),
    (b"\n\n", False, [b"F ", b"F "], b""),
    (b"a\rb\r\n", False, [b"F a\rb\r"], b""),
    (b"x" * ENTRY_BYTES, False, [], b"x" * ENTRY_BYTES),
    (b"x" * ENTRY_BYTES + b"\n", False, [b"F " + b"x" * ENTRY_BYTES], b""),
    (BIG, False, [b"P " + b"x" * ENTRY_BYTES], b"xxxxx"),
    (BIG + b"\n", False, [b"P " + b"x" * ENTRY_BYTES, b"F xxxxx"], b""),
    (b"\x00\xff\n", False, [b"F \x00\xff"], b""),
]


@pytest.mark.parametrize(("data", "final", "wanted", "rest"), CUTS)
def test_output_is_cut_into_entries(data: bytes, final: bool, wanted: list[bytes], rest: bytes) -> None:
    found, left = entries(b"stdout", data, STAMP, final=final)
    assert found == [STAMP + b" stdout " + text + b"\n" for text in wanted]
    assert left == rest


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [(0, "1970-01-01T00:00:00.000000000Z"), (1_767_323_045_000_000_006, "2026-01-02T03:04:05.000000006Z")],
)
def test_times_are_rfc3339_with_nine_digits(unix_ns: int, text: str) -> None:
    assert timestamp(unix_ns) == text.encode()


def _texts(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    for line in path.read_bytes().splitlines():
        match = ENTRY.match(line)
        assert match, f"a reader would refuse {line!r}"
        found.append((match[1], match[2], match[3]))
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "pods" / "ns_pod_uid" / "c" / "0.log"


def _writer(log: Path) -> LogWriter:
    return LogWriter(str(log), str(log.parents[3] / "record.json"))


def test_the_file_and_its_parents_are_made_and_private(log: Path) -> None:
    old = os.umask(0)
    try:
        _writer(log).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_an_unfinished_line_waits_for_its_end_and_streams_do_not_mix(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"he", 1)
    writer.feed("stderr", b"oops\n", 2)
    writer.feed("stdout", b"llo\n", 3)
    writer.commit()
    assert _texts(log) == [(b"stderr", b"F", b"oops"), (b"stdout", b"F", b"hello")]


def test_the_rest_at_the_end_of_a_stream_is_a_partial_entry(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"no newline", 1, end=True)
    assert _texts(log) == [(b"stdout", b"P", b"no newline")]


FRAMES = [(b"a\nb", 5), (b"c\n", 6), (b"d\ne", 9), (b"f\n", 12)]


@pytest.mark.parametrize("acknowledged", range(len(FRAMES) + 1))
@pytest.mark.parametrize("written", range(len(FRAMES) + 1))
def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(
    log: Path, acknowledged: int, written: int
) -> None:
    """The first daemon commits some frames, writes more without committing, and is killed; the guest repeats
    from anywhere.
    """
    first = _writer(log)
    for number, (data, seq) in enumerate(FRAMES[:written]):
        first.feed("stdout", data, seq)
        if number < acknowledged:
            first.commit()
    first.close()
    second = _writer(log)
    for data, seq in FRAMES[min(acknowledged, written) :]:
        second.feed("stdout", data, seq)
        second.commit()
    assert [text for _, _, text in _texts(log)] == [b"a", b"bc", b"d", b"ef"]


def test_frames_that_were_committed_but_not_acknowledged_are_dropped(log: Path) -> None:
    first = _writer(log)
    first.feed("stdout", b"once\n", 7)
    first.commit()
    first.close()
    second = _writer(log)
    second.feed("stdout", b"once\n", 7)
    assert [text for _, _, text in _texts(log)] == [b"once"]


def test_after_a_rename_and_reopen_the_old_file_stays_as_it_is(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"old\n", 1)
    rotated = log.with_suffix(".1")
    log.rename(rotated)
    writer.reopen()
    assert log.exists()
    writer.feed("stdout", b"new\n", 2)
    writer.commit()
    assert [text for _, _, text in _texts(rotated)] == [b"old"]
    assert [text for _, _, text in _texts(log)] == [b"new"]


def test_a_file_that_was_rotated_while_no_daemon_ran_is_not_cut(log: Path) -> None:
    first = _writer(log)
    first.feed("stdout", b"one\n", 1)
    first.commit()
    first.close()
    log.rename(log.with_suffix(".1"))
    log.write_bytes(STAMP + b" stdout F a longer line than what the first daemon has written\n")
    second = _writer(log)
    second.feed("stdout", b"two\n", 2)
    assert [text for _, _, text in _texts(log)][-1] == b"two"
    assert len(_texts(log)) == 2


def test_a_full_disk_drops_output_and_leaves_whole_entries(log: Path, tmp_path: Path) -> None:
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    writer = LogWriter(str(log), str(tmp_path / "record.json"))
    writer.feed("stdout", b"lost\n", 1)
    assert "No space left" in writer.fault


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    writer = LogWriter("", str(tmp_path / "record.json"))
    writer.feed("stdout", b"x\n", 1)
    writer.commit()
    writer.flush()
    assert list(tmp_path.iterdir()) == []
