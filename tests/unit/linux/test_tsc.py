# SPDX-License-Identifier: Apache-2.0
"""The host's time stamp counter: what is made of samples, then the real one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.linux import tsc

SECOND = 1_000_000_000


def told(*samples: tuple[int, int]) -> int:
    """What is measured when the machine says so."""
    left: Iterator[tuple[int, int]] = iter(samples)
    return tsc.measured(lambda: next(left), lambda _: None)


def test_the_rate_is_that_of_the_whole_time() -> None:
    assert told((7, 0), (7 + 25_000_000, SECOND // 100), (7 + 75_000_050, 3 * SECOND // 100)) == 2_500_002


@pytest.mark.parametrize(
    "samples",
    [
        ((0, 0), (20_000_000, SECOND // 100), (50_000_000, SECOND // 50)),  # it changes with the CPU's frequency
        ((5, 0), (5, SECOND // 100), (5, SECOND // 50)),  # it stands still
        ((5, 0), (3, SECOND // 100), (1, SECOND // 50)),
    ],
)
def test_a_counter_that_is_no_clock_has_no_rate(samples: tuple[tuple[int, int], ...]) -> None:
    assert told(*samples) == 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86-64 has this counter")
def test_the_real_counter_has_the_same_rate_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    result = set()
    for _ in range(3):
        monkeypatch.setattr(tsc, "_known", 0)
        result.add(tsc.khz())
    # 0: the machine was too busy, or it forbids executable memory.
    rates = result - {0}
    assert all(100_000 < rate < 10_000_000 for rate in rates)
    assert not rates or max(rates) - min(rates) < max(rates) * 1e-3


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "_known", 4711)
    assert tsc.khz() == 4711


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file between processes, which is not there yet; what is measured is 4711."""
    monkeypatch.setattr(tsc, "_known", 0)
    monkeypatch.setattr(tsc, "_file", "")
    monkeypatch.setattr(tsc, "_reader", lambda: lambda: 0)
    monkeypatch.setattr(tsc, "measured", lambda *_: 4711)
    tsc.use_file(str(tmp_path / "run" / "tsc-khz"))
    return tmp_path / "run" / "tsc-khz"


def test_what_one_process_measured_the_next_one_knows(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tsc.khz() == 4711 and kept.read_text() == "4711\n"
    monkeypatch.setattr(tsc, "_known", 0)
    monkeypatch.setattr(tsc, "measured", lambda *_: pytest.fail("it was measured again"))
    assert tsc.khz() == 4711


@pytest.mark.parametrize("text", ["", "x", "-5", "9" * 400])
def test_nonsense_in_the_file_is_measured_anew(kept: Path, text: str) -> None:
    kept.parent.mkdir()
    kept.write_text(text)
    assert tsc.khz() == 4711 and kept.read_text() == "4711\n"


def test_an_unknown_frequency_is_not_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "measured", lambda *_: 0)
    assert tsc.khz() == 0 and not kept.exists()
