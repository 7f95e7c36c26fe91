# SPDX-License-Identifier: Apache-2.0
"""`clearpod ksm`, over a directory of files."""

import json
import os
from pathlib import Path

import pytest

from cri.__main__ import main
from cri.memory import record
from cri.memory.record import Record
from stage1.linux.ksm import Settings
from tests.fakes.ksm import FakeKsm

RUNNING = Settings(1, 800, 20, 1)
ODD = Settings(0, 5, 5, 0)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a daemon that uses ksm.json in it; the configuration is beside."""
    (tmp_path / "run").mkdir()
    (tmp_path / "c.toml").write_text('run_dir = "/proc/self/cwd/run"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def output_of(capsys: pytest.CaptureFixture[str], files: FakeKsm, *more: str) -> str:
    """What the command prints."""
    assert main(["ksm", "--config", f"{files.path.parent}/c.toml", "--directory", str(files.path), *more]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "left", "sentence"),
    [
        (0, None, "stopped, "),
        (1, None, "by another program"),
        (2, None, "stopped and undone"),
        (1, Record(Settings(), RUNNING, Settings(), "quick", os.getpid()), "daemon, level quick"),
        (1, Record(Settings(), RUNNING, Settings(), "quick", 1 << 22), "killed"),
        (1, Record(ODD, ODD._replace(run=1), ODD), "by another program"),
    ],
)
def test_it_reports_who_has_set_it(
    run_dir: Path, capsys: pytest.CaptureFixture[str], run: int, left: Record | None, sentence: str
) -> None:
    files = FakeKsm(run_dir.parent / "ksm", run=run, pages_to_scan=800, use_zero_pages=1)
    if left:
        record.write(record.path(str(run_dir)), left)
    assert sentence in output_of(capsys, files)


def test_it_reports_how_much_is_saved(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = FakeKsm(run_dir.parent / "ksm", run=1, pages_sharing=25600, ksm_zero_pages=25600, general_profit=104857600)
    out = output_of(capsys, files)
    assert "saved   200.0 MiB, 100.0 MiB of it zeros; less what the kernel needs for it: 100.0" in out
    result = json.loads(output_of(capsys, files, "--json"))
    assert result["saved_bytes"] == 200 << 20
    assert result["settings"]["run"] == 1


def test_a_kernel_without_ksm_is_one_sentence(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ksm", "--config", "c.toml", "--directory", f"{run_dir}/no"]) != 0
    assert "built without KSM" in capsys.readouterr().err
