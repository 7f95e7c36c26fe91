# SPDX-License-Identifier: Apache-2.0
"""The daemon's hand on KSM, over a directory of files: what it sets, what it leaves alone, what it gives back."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from cri.config_tables import Ksm as Config
from cri.memory import record
from cri.memory.merger import Merger
from stage1.linux.pressure import Shortage
from tests.fakes.ksm import FakeKsm

ORIGINAL = {"run": 0, "pages_to_scan": 100, "sleep_millisecs": 20, "use_zero_pages": 0}
QUICK = {"run": 1, "pages_to_scan": 800, "sleep_millisecs": 20, "use_zero_pages": 1}


def merger(files: FakeKsm, *, enabled: bool = True, guests: int = 3) -> Merger:
    """A daemon's, its record beside the files."""
    config, run_dir = Config(enabled=enabled), str(files.path.parent)
    return Merger(run_dir, config, guests=lambda: guests, shortage=Shortage, directory=str(files.path))


@pytest.fixture
def files(tmp_path: Path) -> FakeKsm:
    """As a kernel starts with."""
    return FakeKsm(tmp_path / "ksm")


def test_it_runs_while_there_are_guests_and_everything_is_given_back(files: FakeKsm) -> None:
    ours = merger(files)
    assert ours.begin()
    assert ours.tick()
    assert files.settings() == QUICK
    ours.give_back()
    assert files.settings() == ORIGINAL
    assert os.listdir(files.path.parent) == ["ksm"]


def test_without_guests_nothing_is_set(files: FakeKsm) -> None:
    ours = merger(files, guests=0)
    assert ours.begin()
    assert ours.tick()
    assert files.settings() == ORIGINAL
    assert os.listdir(files.path.parent) == ["ksm"]


def test_it_is_off_unless_it_is_enabled(files: FakeKsm) -> None:
    assert not merger(files, enabled=False).begin()
    assert files.settings() == ORIGINAL


@pytest.mark.parametrize("enabled", [True, False])
def test_what_a_killed_daemon_left_is_given_back_by_the_next(files: FakeKsm, enabled: bool) -> None:
    killed = merger(files)
    killed.begin()
    killed.tick()
    following = merger(files, enabled=enabled)
    assert following.begin() is enabled
    if enabled:
        assert files.settings() == QUICK
        following.give_back()
    assert files.settings() == ORIGINAL
    assert os.listdir(files.path.parent) == ["ksm"]


def test_a_daemon_killed_between_record_and_files_is_understood(files: FakeKsm) -> None:
    killed = merger(files)
    killed.begin()
    killed.tick()
    files.set("pages_to_scan", 100)  # this one it did not get to
    assert not merger(files, enabled=False).begin()
    assert files.settings() == ORIGINAL


def test_ksm_that_another_program_runs_is_left_alone(files: FakeKsm, caplog: pytest.LogCaptureFixture) -> None:
    theirs = ORIGINAL | {"run": 1, "pages_to_scan": 1234}
    for name, value in theirs.items():
        files.set(name, value)
    ours = merger(files)
    assert not ours.begin()
    ours.give_back()
    assert files.settings() == theirs
    assert "another program" in warnings(caplog)


def test_ksm_that_another_program_changes_meanwhile_is_left_alone(
    files: FakeKsm, caplog: pytest.LogCaptureFixture
) -> None:
    ours = merger(files)
    ours.begin()
    ours.tick()
    files.set("pages_to_scan", 4321)
    assert not ours.tick()
    ours.give_back()
    assert files.settings() == QUICK | {"pages_to_scan": 4321}
    assert "another program" in warnings(caplog)
    assert os.listdir(files.path.parent) == ["ksm"]


def test_changes_between_two_daemons_belong_to_another_program(files: FakeKsm) -> None:
    killed = merger(files)
    killed.begin()
    killed.tick()
    files.set("sleep_millisecs", 77)
    assert not merger(files, enabled=False).begin()
    assert files.settings() == QUICK | {"sleep_millisecs": 77}


async def test_files_that_can_not_be_written_are_reported_in_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = FakeKsm(tmp_path / "ksm")
    (files.path / "sleep_millisecs").unlink()
    (files.path / "sleep_millisecs").mkdir()
    ours = merger(files)
    await ours.open()
    await ours.close()
    assert "sleep_millisecs" in warnings(caplog)
    assert (files.path / "run").read_text() == "0\n"


async def test_the_daemons_task_sets_at_once_and_gives_back_at_its_end(
    files: FakeKsm, caplog: pytest.LogCaptureFixture
) -> None:
    ours = merger(files)
    await ours.open()
    await asyncio.sleep(0.05)
    assert files.settings() == QUICK
    await ours.close()
    assert files.settings() == ORIGINAL
    assert warnings(caplog) == ""


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda files: (files.path / "run").unlink(), "built without KSM"),
        (lambda files: files.say("advisor_mode", "none [scan-time]"), "advisor"),
        (lambda files: files.say("run", "what"), "'what'"),
    ],
)
async def test_what_can_not_be_set_is_reported_and_left(
    files: FakeKsm, caplog: pytest.LogCaptureFixture, break_it: object, sentence: str
) -> None:
    break_it(files)  # type: ignore[operator]
    ours = merger(files)
    await ours.open()
    await ours.close()
    assert sentence in warnings(caplog)


def test_an_old_kernel_without_zero_pages_is_set_without_them(tmp_path: Path) -> None:
    files = FakeKsm(tmp_path / "ksm", without=("use_zero_pages", "ksm_zero_pages", "pages_scanned"))
    ours = merger(files)
    assert ours.begin()
    assert ours.tick()
    assert files.settings() == {name: value for name, value in QUICK.items() if name != "use_zero_pages"}
    ours.give_back()
    assert files.settings()["run"] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 2}', '{"v": 1, "before": {}}'])
def test_a_record_that_can_not_be_understood_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "ksm.json").write_text(text)
    assert record.read(record.path(str(tmp_path))) is None


def test_the_record_names_its_version(files: FakeKsm) -> None:
    ours = merger(files)
    ours.begin()
    ours.tick()
    assert json.loads((files.path.parent / "ksm.json").read_text())["v"] == 1


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    """The warnings in the log."""
    return "".join(str(vars(one).get("warning", "")) for one in caplog.records)
