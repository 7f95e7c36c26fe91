# SPDX-License-Identifier: Apache-2.0
"""Programs that get their input in pieces: they can't make us wait, and what they write is kept within bounds."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, TimedOut
from stage1.linux import supervise
from stage1.linux.feeding import Fed, Pace
from stage1.linux.supervise import Stopped
from tests.fakes.patience import PATIENCE

PACE = Pace(60.0, 1e6)
FLOOD = "head -c 10000000 /dev/zero"


@contextlib.contextmanager
def fed(script: str, pace: Pace = PACE, **options: object) -> Iterator[Fed]:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(Fed(supervise.program(["sh", "-c", script]), pace, **options)) as program:  # type: ignore[arg-type]
        yield program
    assert len(os.listdir("/proc/self/fd")) == before


def test_all_that_is_given_arrives_and_what_is_written_is_kept() -> None:
    with fed("wc -c; echo first >&2; echo last >&2; exit 3") as program:
        for piece in (b"x" * 1_000_000, memoryview(b"y" * 500_001), b""):
            program.give(piece)
        assert program.finish() == supervise.Ended(3, "last")
        assert int(program.text) == program.given == 1_500_001


@pytest.mark.parametrize("script", ["exit 0", "exec <&-; sleep 0.2"])
def test_what_is_not_taken_any_more_is_given_in_vain(script: str) -> None:
    with fed(script) as program:
        for _ in range(10):
            program.give(b"x" * 1_000_000)
        assert program.finish().code == 0


def test_one_that_writes_without_end_delays_no_call_and_takes_no_memory() -> None:
    with fed(f"{FLOOD} & {FLOOD} >&2 & cat >/dev/null; wait", most_bytes=1000) as program:
        for _ in range(20):
            program.give(b"x" * 300_000)
        assert program.finish().code == 0
        assert 1000 < len(program.text) <= 1000 + (1 << 18) and len(program._tail) <= 4096


def test_one_that_does_not_read_is_given_up_by_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with fed("sleep 1000", Pace(0.1, 1e9)) as program, pytest.raises(TimedOut, match="took more than"):
        program.give(b"x" * 10_000_000)
    with fed("sleep 1000", Pace(0.1, 1e9)) as program, pytest.raises(TimedOut):
        program.finish()
    with fed("exec >&- 2>&-; sleep 1000", Pace(0.1, 1e9)) as program, pytest.raises(TimedOut):
        program.finish()


def test_time_without_a_waiter_does_not_count() -> None:
    with fed("cat >/dev/null", Pace(0.0, 1e9)) as program:
        program._waited_s = -1.0
        for _ in range(3):
            program.give(b"x")
            program._checked_s = 0.0
        assert program._waited_s == -1.0


def test_a_check_that_fails_ends_it(tmp_path: Path) -> None:
    def check() -> None:
        raise Stopped("nobody wants it")

    with fed("echo $$ > $0; exec sleep 1000".replace("$0", f"{tmp_path}/pid"), check=check) as program:
        with pytest.raises(Stopped):
            program.give(b"x" * 10_000_000)
        pid = int((tmp_path / "pid").read_text())
    assert not os.path.exists(f"/proc/{pid}")


def test_one_that_can_not_be_started_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError):
        Fed(supervise.program(["/nonexistent"]), PACE)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_comes_by_a_pipe_is_moved_and_copied() -> None:
    reading, writing = os.pipe()
    with fed("wc -c") as program:
        os.write(writing, b"x" * 1000)
        assert program.move(reading, 400) == 400
        assert program.copy(reading, 500) == 500
        assert os.read(reading, 5000) == b"x" * 600, "what is copied stays"
        program.finish()
        assert int(program.text) == program.given == 900
    os.close(writing)
    with fed("wc -c") as program:
        assert program.move(reading, 1000) == program.copy(reading, 1000) == 0, "they have ended"
    os.close(reading)


def test_what_comes_slowly_by_a_pipe_is_waited_for() -> None:
    reading, writing = os.pipe()
    is_over = threading.Event()

    def write() -> None:
        with open(writing, "wb", buffering=0) as file:
            for _ in range(10):
                file.write(b"x" * 100_000)
                time.sleep(0.01)
            is_over.wait(10 * PATIENCE)

    writer = threading.Thread(target=write)
    writer.start()
    with fed("sleep 0.3; wc -c") as program:
        assert program.move(reading, 900_000) == 900_000
        assert program.move(reading, 100_000) == 100_000
        program.finish()
        assert int(program.text) == 1_000_000
    is_over.set()
    writer.join()
    os.close(reading)


@pytest.mark.parametrize("script", ["exit 0", "exec <&-; sleep 0.2"])
def test_a_pipe_is_not_moved_to_one_that_takes_no_more(script: str) -> None:
    reading, writing = os.pipe()
    with fed(script) as program:
        while program._in >= 0:
            program.give(b"x" * 100_000)
        os.write(writing, b"x" * 1000)
        assert program.move(reading, 400) == program.copy(reading, 400) == 0
        assert program.finish().code == 0
    os.close(reading)
    os.close(writing)


def test_one_that_takes_nothing_of_a_pipe_is_given_up() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x" * 60_000)
    for step in ("move", "copy"):
        with fed("exec sleep 1000", Pace(0.3, 1e9)) as program:
            os.set_blocking(program._in, False)
            with contextlib.suppress(BlockingIOError):
                while os.write(program._in, b"y" * 65536):
                    pass
            with pytest.raises(TimedOut):
                getattr(program, step)(reading, 50_000)
    os.close(reading)
    os.close(writing)
