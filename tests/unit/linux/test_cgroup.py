# SPDX-License-Identifier: Apache-2.0
"""Cgroups of the host: where they go, and that nothing in them stays."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, NotFound
from stage1.linux import cgroup
from stage1.linux.cgroup import Limits
from tests.fakes.patience import PATIENCE

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
    assert [one.wait(10 * PATIENCE) for one in started] == [-9, -9]
    cgroup.end(str(place))


@pytest.mark.parametrize(("above_us", "own_us"), [("100000", "-1"), ("-1", "150000")])
def test_in_version_1_a_quota_above_is_the_only_one(above_us: str, own_us: str) -> None:
    """Where it is less than that of a VMM the kernel refuses the second, and later any change of the first."""
    above = Path(cgroup.ROOT, "cpu", NAME)
    if not (above.parent / "cpu.cfs_quota_us").exists():
        pytest.skip("needs the cpu controller of version 1")
    above.mkdir()
    try:
        (above / "cpu.cfs_quota_us").write_text(above_us)
        cgroup.make({".cpu": f"{above}/vm"}, Limits(memory_bytes=300 << 20, pids=50, cpu_us=150_000))
        assert (above / "vm/cpu.cfs_quota_us").read_text().strip() == own_us
        (above / "cpu.cfs_quota_us").write_text("50000" if above_us != "-1" else "200000")
    finally:
        cgroup.end(str(above))


def test_controllers_are_those_that_it_can_limit(place: Path) -> None:
    place.mkdir()
    assert cgroup.controllers(str(place)) <= cgroup.controllers(cgroup.tree())
    assert cgroup.controllers("/no/such/cgroup") == frozenset()


def test_a_host_without_cgroup_v2_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    with pytest.raises(NotFound, match="cgroup v2"):
        cgroup.place("", NAME)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in place of cgroup v2, to see what is written."""
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    return tmp_path


LIMITS = Limits(memory_bytes=300 << 20, pids=50, cpu_us=150_000)


def values(path: Path, *names: str) -> list[str]:
    return [(path / name).read_text().strip() for name in names]


def test_in_version_2_a_vmm_has_a_place_with_limits_below_one_that_counts(tree: Path) -> None:
    result = cgroup.places("clearpod", "vm")
    assert result == {"": f"{tree}/clearpod/vm"}
    place = tree / "clearpod/vm"
    place.mkdir(parents=True)
    for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max"):
        (place / name).touch()
    for _ in range(2):
        cgroup.make(result, LIMITS)
    for above in (tree, tree / "clearpod"):
        assert (above / "cgroup.subtree_control").read_text() == "+pids", "one controller after the other"
    expected = [str(300 << 20), "0", "50", "150000 100000"]
    assert values(place, "memory.max", "memory.swap.max", "pids.max", "cpu.max") == expected


def test_in_version_1_it_has_one_in_each_hierarchy_that_limits(tree: Path) -> None:
    (tree / "cgroup.procs").unlink()
    for name in ("memory", "pids", "cpu", "blkio", "unified"):
        (tree / name).mkdir()
        (tree / name / "cgroup.procs").touch()
    result = cgroup.places("/kubepods/../../pod", "vm")
    assert result == {
        "": f"{tree}/unified/pod/vm",
        ".memory": f"{tree}/memory/pod/vm",
        ".pids": f"{tree}/pids/pod/vm",
        ".cpu": f"{tree}/cpu/pod/vm",
    }
    place = tree / "memory/pod/vm"
    place.mkdir(parents=True)
    (place / "memory.limit_in_bytes").touch()  # and no memory.memsw, as without swap
    cgroup.make(result, LIMITS)
    assert values(place, "memory.limit_in_bytes") == [str(300 << 20)] and len(os.listdir(place)) == 1


def test_where_there_are_none_a_vmm_has_none(tree: Path) -> None:
    (tree / "cgroup.procs").unlink()
    assert cgroup.places("clearpod", "vm") == {} and os.listdir(tree) == []
    cgroup.make({}, LIMITS)


@pytest.fixture
def real() -> Iterator[dict[str, str]]:
    """In the hierarchies of this machine."""
    result = cgroup.places("clearpod-test", "vm")
    if not result:
        pytest.skip("needs cgroups that can be written")
    yield result
    for path in result.values():
        cgroup.end(path)
        if os.path.isdir(parent := os.path.dirname(path)):  # not there when the test was skipped
            os.rmdir(parent)


def test_limits_hold_for_who_joins_and_end_with_it(real: dict[str, str]) -> None:
    cgroup.make(real, LIMITS)
    output = {name: value for path in real.values() for name in os.listdir(path)
            if name in ("memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us")
            for value in values(Path(path), name)}  # fmt: skip
    if not output:
        pytest.skip("no controller can be had on this machine")
    assert set(output.values()) <= {str(300 << 20), "50", "150000", "150000 100000"}
    script = "read x; for i in $(seq 200); do sleep 9 2>/dev/null & done; wait"
    one = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    for path in real.values():
        cgroup.join(path, one.pid)
        assert cgroup.members(path) == [one.pid]
    if "pids.max" in output:
        assert one.communicate(b"\n", timeout=60)[1].count(b"fork") >= 1
    for _ in range(2):
        for path in real.values():
            cgroup.end(path)
            assert not os.path.exists(path)
    assert one.wait(10 * PATIENCE) != 0


def test_in_version_1_all_that_are_in_it_end_with_it(real: dict[str, str]) -> None:
    place = Path(real.get(".pids", ""))
    if not place.is_absolute():
        pytest.skip("needs the controller pids in a hierarchy of version 1")
    cgroup.make(real, LIMITS)
    (place / "below").mkdir()
    started = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    for one, where in zip(started, (place, place, place / "below"), strict=True):
        cgroup.join(str(where), one.pid)
    cgroup.end(str(place))
    assert not place.exists()
    assert [one.wait(10 * PATIENCE) for one in started] == [-9] * 3


def test_who_has_ended_joins_nothing(place: Path) -> None:
    place.mkdir()
    one = subprocess.Popen(["true"])
    one.wait()
    with pytest.raises(KernelError, match=f"VMM .*{NAME}.*ESRCH"):
        cgroup.join(str(place), one.pid)


def test_a_limit_that_can_not_be_written_is_named(tree: Path) -> None:
    (tree / "clearpod/vm/memory.max").mkdir(parents=True)
    with pytest.raises(KernelError, match=r"write: .*/clearpod/vm/memory.max 314572800.*EISDIR"):
        cgroup.make(cgroup.places("clearpod", "vm"), LIMITS)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "100"}, {"memory.max": "500"}),
        ({"memory.max": "max"}, {"memory.max": "max"}),
        ({"memory.max": "501"}, {"memory.max": "501"}),
        (
            {"memory.limit_in_bytes": "100", "memory.memsw.limit_in_bytes": "200"},
            {"memory.limit_in_bytes": "500", "memory.memsw.limit_in_bytes": "500"},
        ),
        ({"pids.max": "5"}, {"pids.max": "5"}),
    ],
)
def test_a_memory_limit_is_raised_and_never_lowered(
    tmp_path: Path, files: dict[str, str], expected: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    cgroup.raise_memory([str(tmp_path), f"{tmp_path}/absent"], 500)
    assert {path.name: path.read_text().strip() for path in tmp_path.iterdir()} == expected


def test_usage_has_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 3\noom_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 7\nuser_usec 5\n")
    assert cgroup.usage(str(tmp_path)) == {
        "memory.max": "max",
        "cpu.stat.usage_usec": "7",
        "memory.events.max": "3",
        "memory.events.oom_kill": "1",
    }
    assert cgroup.usage(f"{tmp_path}/absent") == {}
