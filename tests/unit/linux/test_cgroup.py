# SPDX-License-Identifier: Apache-2.0
"""Cgroups of the host: where they go, and that nothing in them stays."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, NotFound
from stage1.linux import cgroup

NAME = "clearpod-test-cgroup"


@pytest.fixture
def place() -> Iterator[Path]:
    if not cgroup.tree():
        pytest.skip("needs cgroup v2 on this machine")
    path = Path(cgroup.place("", NAME))
    yield path
    cgroup.end(str(path))


def test_a_parent_that_is_not_there_or_leads_out_is_passed_over(place: Path) -> None:
    top = cgroup.tree()
    for parent in ("", "/", "/no-such-parent", "../..", "/../../etc"):
        assert cgroup.place(parent, NAME) == f"{top}/{NAME}"
    place.mkdir()
    assert cgroup.place(f"/{NAME}", "below") == f"{top}/{NAME}/below"


def test_all_that_is_in_it_ends_with_it(place: Path) -> None:
    deep = place / "a/b"
    deep.mkdir(parents=True)
    started = []
    for where in (place, deep):
        one = subprocess.Popen(["sleep", "1000"])
        (where / "cgroup.procs").write_text(str(one.pid))
        started.append(one)
    cgroup.end(str(place))
    assert not place.exists()
    assert [one.wait(10) for one in started] == [-9, -9]
    cgroup.end(str(place))


def test_controllers_are_those_that_it_can_limit(place: Path) -> None:
    place.mkdir()
    assert cgroup.controllers(str(place)) <= cgroup.controllers(cgroup.tree())
    assert cgroup.controllers("/no/such/cgroup") == frozenset()


def test_a_host_without_version_2_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    with pytest.raises(NotFound, match="cgroup v2 is mounted neither on"):
        cgroup.place("", NAME)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in place of cgroup v2, to see what is written."""
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    return tmp_path


def test_a_vmm_has_a_place_below_ours_where_it_is_counted(tree: Path) -> None:
    assert cgroup.place_ours("vm") == cgroup.place_ours("vm") == f"{tree}/clearpod/vm"
    for above in (tree, tree / "clearpod"):
        assert (above / "cgroup.subtree_control").read_text() == "+pids", "one controller after the other"


def test_without_version_2_a_vmm_has_no_place(tree: Path) -> None:
    (tree / "cgroup.procs").unlink()
    assert cgroup.place_ours("vm") == "" and os.listdir(tree) == []


def test_who_joins_is_there_and_ends_with_it(place: Path) -> None:
    one = subprocess.Popen(["sleep", "1000"])
    cgroup.join(str(place), one.pid)
    assert (place / "cgroup.procs").read_text() == f"{one.pid}\n"
    cgroup.end(str(place))
    assert one.wait(10) == -9 and not place.exists()


def test_who_has_ended_joins_nothing(place: Path) -> None:
    one = subprocess.Popen(["true"])
    one.wait()
    with pytest.raises(KernelError, match=f"put a VMM into.*{NAME}.*ESRCH"):
        cgroup.join(str(place), one.pid)
