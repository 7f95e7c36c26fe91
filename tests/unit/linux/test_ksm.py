# SPDX-License-Identifier: Apache-2.0
"""Reading and writing KSM's files and PSI, over files of our own."""

import os
from pathlib import Path

import pytest

from stage1.errors import KernelError
from stage1.linux import ksm, pressure
from stage1.linux.ksm import Counters, Ksm, Merged, Settings
from tests.fakes.ksm import FakeKsm


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    files = FakeKsm(tmp_path / "ksm")
    os.utime(files.path / "sleep_millisecs", (1, 1))
    Ksm(str(files.path)).apply(Settings(1, 500, 20, 1))
    assert files.settings() == {"run": 1, "pages_to_scan": 500, "sleep_millisecs": 20, "use_zero_pages": 1}
    assert os.stat(files.path / "sleep_millisecs").st_mtime == 1


def test_counters_that_a_kernel_lacks_are_minus_one(tmp_path: Path) -> None:
    files = FakeKsm(tmp_path / "ksm", without=("general_profit", "pages_scanned"), pages_sharing=7, ksm_zero_pages=2)
    assert Ksm(str(files.path)).counters() == Counters(pages_sharing=7, ksm_zero_pages=2)
    assert Ksm(str(files.path)).counters().saved == 9


def test_a_value_the_kernel_refuses_names_the_file(tmp_path: Path) -> None:
    files = FakeKsm(tmp_path / "ksm")
    (files.path / "run").unlink()
    (files.path / "run").symlink_to("/proc/self/oom_score_adj")
    with pytest.raises(KernelError, match=r"write: .*/ksm/run"):
        Ksm(str(files.path)).apply(Settings(2000, 100, 20, 0))


def test_a_process_that_is_gone_has_merged_nothing() -> None:
    assert ksm.merged(1 << 22) == Merged()
    assert ksm.thread_cpu_s(0) == 0.0


def test_pressure_is_the_first_lines_average_of_ten_seconds(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("some avg10=12.50 avg60=1.0 avg300=0.1 total=9\nfull avg10=3.0 avg60=0 total=1\n")
    assert pressure.some_percent("memory", directory=str(tmp_path)) == 12.5


@pytest.mark.parametrize("text", [None, "", "some\n", "some avg10=x\n"])
def test_a_host_without_psi_has_no_pressure(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "memory").write_text(text)
    assert pressure.some_percent("memory", directory=str(tmp_path)) == 0.0


def test_memory_is_bytes_and_a_part(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\nHugePages_Total: 0\n")
    result = pressure.memory(str(tmp_path / "meminfo"))
    assert result == (1000 << 10, 250 << 10)
    assert result.free_percent == 25.0
    assert pressure.memory("/nowhere").free_percent == 100.0
