# SPDX-License-Identifier: Apache-2.0
"""The cgroup that the kubelet makes for a pod: where it is, in both versions, and what it allows."""

from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.linux import cgroup, podcgroup
from stage1.linux.podcgroup import Allowed

POD = "kubepods/burstable/pod1"
NONE_IN_VERSION_1 = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("", ""),
        ("/", ""),
        ("-.slice", ""),
        ("/kubepods/burstable/pod1", POD),
        ("kubepods//./burstable/pod1/", POD),
        ("../../etc", "etc"),
        ("kubepods-burstable-pod1_2.slice", "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"),
        ("/test.slice", "test.slice"),
        ("/a.slice/b.slice", "a.slice/b.slice"),
    ],
)
def test_a_parent_is_a_path_or_the_name_of_a_slice(parent: str, path: str) -> None:
    assert podcgroup.path_of(parent) == path


@pytest.mark.parametrize("parent", ["a-b.slice", "/a.slice/a-b.slice", "a.slice/a-b.slice", "-.slice", "x_1:2.slice"])
def test_a_slice_is_taken_by_its_name_or_its_path(parent: str) -> None:
    podcgroup.check_slice(parent)


@pytest.mark.parametrize(
    "parent",
    [
        "/kubepods/pod1",
        "/",
        "a.slice/b.slice",
        "a--b.slice",
        "-a.slice",
        ".slice",
        "a.slice/x",
        "\n.slice",
        "a b.slice",
    ],
)
def test_what_is_no_slice_is_refused_where_the_driver_is_systemd(parent: str) -> None:
    with pytest.raises(BadRequest, match="slice"):
        podcgroup.check_slice(parent)


def made(top: Path, files: dict[str, str]) -> Path:
    """The pod's cgroup in a hierarchy."""
    place = top / POD
    place.mkdir(parents=True)
    (top / "cgroup.procs").touch()
    for name, text in files.items():
        (place / name).write_text(text)
    return place


def test_in_version_2_it_is_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    assert podcgroup.find(POD) == {} and podcgroup.find("") == {}
    files = {"memory.max": "1000\n", "pids.max": "max\n", "memory.min": "0\n", "memory.low": "700\n"}
    place = made(tmp_path, files)
    result = podcgroup.find(f"/{POD}")
    assert result == {"": str(place)}
    assert podcgroup.allowed(result) == Allowed(1000, 0)
    assert [podcgroup.protected_bytes(podcgroup.find(one)) for one in (POD, "/no/such")] == [700, 0]
    (place / "memory.max").write_text("max\n")
    assert podcgroup.allowed(result) == Allowed()


def test_in_version_1_it_is_in_some_hierarchies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    memory = made(tmp_path / "memory", {"memory.limit_in_bytes": NONE_IN_VERSION_1})
    cpu = made(tmp_path / "cpu,cpuacct", {})
    pids = made(tmp_path / "pids", {"pids.max": "99\n"})
    for name in ("cpu", "cpuacct"):
        (tmp_path / name).symlink_to("cpu,cpuacct")
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.procs").touch()
    result = podcgroup.find(POD)
    assert result == {".memory": str(memory), ".cpu": str(cpu).replace(",cpuacct", ""), ".pids": str(pids)}
    assert podcgroup.allowed(result) == Allowed(0, 99)
    (tmp_path / "cpuacct").unlink()
    apart = made(tmp_path / "cpuacct", {})
    assert podcgroup.find(POD)[".cpuacct"] == str(apart)
    assert podcgroup.protected_bytes(podcgroup.find(POD)) == 0
