# SPDX-License-Identifier: Apache-2.0
"""Container logs: the CRI's format, and nothing lost or written twice when the daemon is killed between any
two steps.
"""

import base64
import contextlib
import itertools
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.logs.batch import Progress
from cri.logs.entries import ENTRY_BYTES, entries, timestamp
from cri.logs.place import LogPlace
from cri.logs.record import CommitRecord
from cri.logs.writer import LogWriter
from stage1.errors import WrongState
from stage1.linux import mount
from stage1.linux.files import NotPlain
from tests.fakes.at_once_log import AtOnce

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
    (b"a\n" + BIG + b"\nb\n", False, [b"F a", b"P " + b"x" * ENTRY_BYTES, b"F xxxxx", b"F b"], b""),
    (BIG + b"\n", False, [b"P " + b"x" * ENTRY_BYTES, b"F xxxxx"], b""),
    (b"\x00\xff\n", False, [b"F \x00\xff"], b""),
]


@pytest.mark.parametrize(("data", "final", "expected", "rest"), CUTS)
def test_output_is_cut_into_entries(data: bytes, final: bool, expected: list[bytes], rest: bytes) -> None:
    result, left = entries(b"stdout", data, stamp=STAMP, final=final)
    assert result == b"".join(STAMP + b" stdout " + text + b"\n" for text in expected)
    assert left == rest


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"x" * 9000]), max_size=30), st.booleans())
def test_entries_are_the_same_however_the_output_came(pieces: list[bytes], final: bool) -> None:
    data = b"".join(pieces)
    whole, left = entries(b"stdout", data, stamp=STAMP, final=final)
    result, rest = b"", b""
    for number, piece in enumerate(pieces or [b""]):
        more, rest = entries(b"stdout", rest + piece, stamp=STAMP, final=final and number >= len(pieces) - 1)
        result += more
    assert (result, rest) == (whole, left)
    texts = [line.split(b" ", 3) for line in whole.splitlines()]
    assert b"".join(text + (b"\n" if kind == b"F" else b"") for _, _, kind, text in texts) + left == data
    assert all(len(text) <= ENTRY_BYTES for *_, text in texts)


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [(0, "1970-01-01T00:00:00.000000000Z"), (1_767_323_045_000_000_006, "2026-01-02T03:04:05.000000006Z")],
)
def test_times_are_rfc3339_with_nine_digits(unix_ns: int, text: str) -> None:
    assert timestamp(unix_ns) == text.encode()


def _texts(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    result = []
    for line in path.read_bytes().splitlines():
        match = ENTRY.match(line)
        assert match, f"a reader would refuse {line!r}"
        result.append((match[1], match[2], match[3]))
    return result


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "pods" / "ns_pod_uid" / "c" / "0.log"


def _open(log: Path, pod: Path, kind: type[LogWriter] = AtOnce, *, root: str = "") -> LogWriter:
    """A writer as a daemon opens it that has just been started; its record is in the directory `pod`."""
    writer = kind(LogPlace(str(log), root), CommitRecord(str(pod), "c"))
    writer.open()
    return writer


def _writer(log: Path) -> LogWriter:
    return _open(log, log.parents[3])


def _reopen(writer: LogWriter) -> None:
    writer.take(writer.open_file())


def test_the_file_and_its_parents_are_made_and_private(log: Path) -> None:
    old = os.umask(0)
    try:
        _writer(log).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_an_unfinished_line_waits_for_its_end_and_streams_do_not_mix(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"he", seq=1)
    writer.feed("stderr", b"oops\n", seq=2)
    writer.feed("stdout", b"llo\n", seq=3)
    writer.commit()
    assert _texts(log) == [(b"stderr", b"F", b"oops"), (b"stdout", b"F", b"hello")]


def test_the_rest_at_the_end_of_a_stream_is_a_partial_entry(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"no newline", seq=1, end=True)
    assert _texts(log) == [(b"stdout", b"P", b"no newline")]


FRAMES = [(b"a\nb", 5), (b"c\n", 6), (b"d\ne", 9), (b"f\n", 12)]


@pytest.mark.parametrize("acknowledged", range(len(FRAMES) + 1))
@pytest.mark.parametrize("written", range(len(FRAMES) + 1))
def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(log: Path, acknowledged: int, written: int) -> None:
    """The first daemon commits some frames, writes more without committing, and is killed; the guest repeats
    from anywhere.
    """
    first = _writer(log)
    for number, (data, seq) in enumerate(FRAMES[:written]):
        first.feed("stdout", data, seq=seq)
        if number < acknowledged:
            first.commit()
    first.close()
    second = _writer(log)
    for data, seq in FRAMES[min(acknowledged, written) :]:
        second.feed("stdout", data, seq=seq)
        second.commit()
    assert [text for _, _, text in _texts(log)] == [b"a", b"bc", b"d", b"ef"]


def test_frames_that_were_committed_but_not_acknowledged_are_dropped(log: Path) -> None:
    first = _writer(log)
    first.feed("stdout", b"once\n", seq=7)
    first.commit()
    first.close()
    second = _writer(log)
    second.feed("stdout", b"once\n", seq=7)
    assert [text for _, _, text in _texts(log)] == [b"once"]


def test_after_a_rename_and_reopen_the_old_file_stays_as_it_is(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"old\n", seq=1)
    rotated = log.with_suffix(".1")
    log.rename(rotated)
    _reopen(writer)
    assert log.exists()
    writer.feed("stdout", b"new\n", seq=2)
    writer.commit()
    assert [text for _, _, text in _texts(rotated)] == [b"old"]
    assert [text for _, _, text in _texts(log)] == [b"new"]


def test_a_file_that_was_rotated_while_no_daemon_ran_is_not_cut(log: Path) -> None:
    first = _writer(log)
    first.feed("stdout", b"one\n", seq=1)
    first.commit()
    first.close()
    log.rename(log.with_suffix(".1"))
    log.write_bytes(STAMP + b" stdout F a longer line than what the first daemon has written\n")
    second = _writer(log)
    second.feed("stdout", b"two\n", seq=2)
    assert [text for _, _, text in _texts(log)][-1] == b"two"
    assert len(_texts(log)) == 2


def test_an_unfinished_line_is_written_at_the_end_and_a_closed_writer_keeps_no_descriptor(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"one\ntwo", seq=1)
    writer.flush()
    writer.close()
    writer.flush()
    assert [(tag, text) for _, tag, text in _texts(log)] == [(b"F", b"one"), (b"P", b"two")]
    assert not any(os.path.realpath(f"/proc/self/fd/{fd}") == str(log) for fd in os.listdir("/proc/self/fd"))


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    writer = LogWriter(LogPlace("", ""), CommitRecord(str(tmp_path), "c"))
    writer.open()
    writer.feed("stdout", b"x\n", seq=1)
    writer.commit()
    writer.flush()
    assert list(tmp_path.iterdir()) == []


class Disk:
    """A disk that is full at will: a tmpfs of a few pages, filled up to the last byte."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Take all of it but `leave` bytes."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        if leave:
            os.truncate(self._ballast, self._ballast.stat().st_size - leave)

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    mount.mount("tmpfs", str(place), "tmpfs", data="size=64k")
    yield Disk(place)
    mount.umount(str(place), lazy=True)


def test_a_full_disk_holds_output_back_and_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    log = disk.place / "0.log"
    writer = _open(log, tmp_path)
    writer.feed("stdout", b"1\n2", seq=1)
    disk.fill(leave=4096)
    lines = b"".join(b"%d\n" % n for n in range(3, 1000))
    writer.feed("stdout", b"\n" + lines, seq=2)
    assert writer.is_stuck
    assert "the container waits until it can" in writer.fault
    writer.feed("stdout", b"1000\n", seq=3)
    writer.feed("stderr", b"oops", seq=4, end=True)
    assert not writer.retry(), "it is still full"
    writer.commit()
    writer.close()
    reopened = _open(log, tmp_path)  # a daemon that starts while the disk is still full
    assert reopened.is_stuck
    reopened.feed("stdout", b"1000\n", seq=3)
    disk.free()
    assert reopened.retry()
    reopened.commit()
    assert reopened.fault == ""
    texts = _texts(log)
    assert [text for stream, _, text in texts if stream == b"stdout"] == [b"%d" % n for n in range(1, 1001)]
    assert texts[-1] == (b"stderr", b"P", b"oops")


def test_a_log_that_can_not_be_opened_holds_output_until_it_can(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_text("a file in the place of the directory")
    writer = _open(place / "0.log", tmp_path)
    assert "can't be opened" in writer.fault
    writer.feed("stdout", b"one\n", seq=1)
    assert writer.is_stuck
    place.unlink()
    assert writer.lacks_file and not writer.retry()
    _reopen(writer)
    assert writer.retry()
    assert [text for _, _, text in _texts(place / "0.log")] == [b"one"]


def test_a_failed_reopen_is_reported_and_the_log_continues_in_the_old_file(log: Path) -> None:
    writer = _writer(log)
    writer.feed("stdout", b"one\n", seq=1)
    rotated = log.with_suffix(".1")
    log.rename(rotated)
    log.mkdir()
    with pytest.raises(NotPlain, match="directory") as caught:
        _reopen(writer)
    refused = writer.refused(caught.value)
    assert isinstance(refused, WrongState) and "the old file is still in use" in str(refused)
    writer.feed("stdout", b"two\n", seq=2)
    assert [text for _, _, text in _texts(rotated)] == [b"one", b"two"]
    log.rmdir()
    _reopen(writer)
    writer.feed("stdout", b"three\n", seq=3)
    assert [text for _, _, text in _texts(log)] == [b"three"]


def test_a_directory_that_vanished_is_made_anew(log: Path) -> None:
    writer = _writer(log)
    shutil.rmtree(log.parent)
    writer.feed("stdout", b"nobody can read this\n", seq=1)
    _reopen(writer)
    writer.feed("stdout", b"two\n", seq=2)
    assert [text for _, _, text in _texts(log)] == [b"two"]


def test_output_is_left_to_a_thread_and_keeps_its_order(log: Path) -> None:
    writer = _open(log, log.parents[3], LogWriter)
    writer.feed("stdout", b"first\n", seq=1)
    writer.feed("stdout", b"\n" * 16384, seq=2)
    writer.feed("stdout", b"last\n", seq=3)
    assert _texts(log) == [] and writer.is_stuck
    batch = writer.batch()
    assert batch is not None
    writer.settle(batch.write())
    assert not writer.is_stuck and writer.batch() is None
    assert [text for _, _, text in _texts(log)] == [b"first", *[b""] * 16384, b"last"]


def test_a_record_of_entries_that_an_older_daemon_could_not_write_is_taken_over(log: Path) -> None:
    first = _writer(log)
    first.feed("stdout", b"one\nrest", seq=1)
    first.commit()
    first.close()
    record = CommitRecord(str(log.parents[3]), "c")
    result = record.open()
    assert result is not None
    entry = base64.b64encode(STAMP + b" stdout F two\n").decode()
    record.write({**result, "unwritten": [entry]})
    record.close()
    _writer(log).flush()
    assert [text for _, _, text in _texts(log)] == [b"one", b"two", b"rest"]


@pytest.mark.parametrize("acknowledged", range(len(FRAMES) + 1))
def test_a_kill_between_the_rename_and_the_reopen_loses_and_doubles_nothing(log: Path, acknowledged: int) -> None:
    """Kubelet has renamed the file; what was written to it, but not committed, comes again to the next daemon."""
    first = _writer(log)
    for number, (data, seq) in enumerate(FRAMES):
        first.feed("stdout", data, seq=seq)
        if number < acknowledged:
            first.commit()
    rotated = log.with_name("0.log.20261126-010203")
    log.rename(rotated)
    first.close()
    second = _writer(log)
    for data, seq in FRAMES[acknowledged:]:
        second.feed("stdout", data, seq=seq)
        second.commit()
    assert [text for _, _, text in _texts(rotated) + _texts(log)] == [b"a", b"bc", b"d", b"ef"]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_each_line_is_there_once_and_in_order(tmp_path: Path, seed: int) -> None:
    """Output, commits, rotations, renames alone and kills in any order, over files that are never removed."""
    dice = random.Random(seed)
    log = tmp_path / "0.log"
    text = b"".join(b"%d:%s\n" % (n, b"x" * dice.choice([0, 1, 70, 20_000])) for n in range(12))
    cuts = sorted(dice.randrange(len(text)) for _ in range(dice.randrange(1, 12)))
    frames = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    kind = dice.choice([LogWriter, AtOnce])
    writer, sent, kept, rotations = _open(log, tmp_path, kind), 0, 0, 0
    done: Progress | None = None  # what a thread has written and the writer has not taken over
    while kept < len(frames):
        step = dice.choice(["send", "send", "send", "commit", "rotate", "rename", "kill", "write", "settle"])
        if step == "send" and sent < len(frames):
            writer.feed("stdout", frames[sent], seq=sent + 1)
            sent += 1
        elif step == "commit":
            writer.commit()
            kept = max(kept, sent)
        elif step == "write" and done is None and (batch := writer.batch()):
            done = batch.write()
        elif step == "settle" and done:
            writer.settle(done)
            done = None
        elif step in ("rotate", "rename") and log.exists() and not done:
            log.rename(tmp_path / f"0.log.{rotations:03}")
            rotations += 1
            if step == "rotate":
                writer.commit()  # the daemon reopens between two batches
                kept = max(kept, sent)
                _reopen(writer)
        elif step == "kill":
            writer.close()
            writer, sent, done = _open(log, tmp_path, kind), dice.randint(0, kept), None
    if done:
        writer.settle(done)
    writer.retry()
    writer.close()
    files = [*sorted(tmp_path.glob("0.log.*")), *([log] if log.exists() else [])]
    joined = b"".join(text + (b"\n" if tag == b"F" else b"") for path in files for _, tag, text in _texts(path))
    assert joined == text
