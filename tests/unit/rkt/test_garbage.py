# SPDX-License-Identifier: Apache-2.0
"""What gc does with pods whose directory somebody else has removed: the dead are removed, the living stay."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.linux import mount
from stage1.linux.process import start_time
from stage1.rkt import directory, machine

UUID = "5f1c2a3b-0000-4000-8000-0000000000{:02d}"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the directories of rkt's pods are root's")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rkt's data directory; the engine's is beside it."""
    monkeypatch.setattr(machine, "RUN", str(tmp_path / "run"))
    for state in directory.STATES:
        (tmp_path / "data/pods" / state).mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def living() -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def make(data: Path, number: int, *, process: "subprocess.Popen[bytes] | None" = None, dead: bool = False) -> Path:
    """The engine's directory of a pod."""
    place = data.parent / "run/pods" / UUID.format(number)
    (place / "tree/volumes").mkdir(parents=True)
    (place / machine.DATA).symlink_to(data)
    if process or dead:
        pid = process.pid if process else 1
        began = start_time(pid) if process else 12345
        record = {"v": 1, "pid": pid, "start_time": began, "console": ""}
        (place / "vm.json").write_text(json.dumps(record))
    return place


@pytest.mark.parametrize("dead", [True, False], ids=["ended", "never started"])
def test_forgotten_pods_are_removed(data: Path, *, dead: bool) -> None:
    place = make(data, 1, dead=dead)
    assert machine.collect_garbage() == [] and not place.exists()


@pytest.mark.parametrize("state", directory.STATES)
def test_what_rkt_knows_stays(data: Path, state: str) -> None:
    place = make(data, 1, dead=True)
    (data / "pods" / state / UUID.format(1)).mkdir()
    assert machine.collect_garbage() == [] and place.exists()


def test_what_lives_stays_though_its_directory_is_gone(data: Path, living: "subprocess.Popen[bytes]") -> None:
    place = make(data, 1, process=living)
    assert machine.collect_garbage() == [] and place.exists() and living.poll() is None


def test_what_is_just_being_made_stays(data: Path) -> None:
    place = make(data, 1)
    (place / machine.DATA).unlink()
    assert machine.collect_garbage() == [] and place.exists()


@pytest.mark.parametrize("text", ['{"v": 99}', "{", "[]", "[" * 100_000, ""])
def test_a_damaged_record_of_a_vmm_keeps_nothing_from_going(data: Path, text: str) -> None:
    place = make(data, 1)
    (place / "vm.json").write_text(text)
    assert machine.collect_garbage() == [] and not place.exists()


def test_one_that_can_not_be_removed_is_reported_and_the_others_are_removed(data: Path) -> None:
    bad, good = make(data, 1), make(data, 2)
    mounted = data.parent / "scratch" / bad.name / "mounted"
    mounted.mkdir(parents=True)
    (bad / "scratch.img").symlink_to(mounted.parent)
    mount.mount("none", str(mounted), "tmpfs")
    try:
        problems = machine.collect_garbage()
    finally:
        mount.umount(str(mounted))
    assert len(problems) == 1 and not good.exists()
    assert "can't be removed: " in problems[0] and str(bad) in problems[0]


def test_without_any_pod_there_is_nothing_to_do(data: Path) -> None:
    assert machine.collect_garbage() == []
