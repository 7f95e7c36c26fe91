# SPDX-License-Identifier: Apache-2.0
"""Scopes of a fake systemd's, over a bus and over its own socket: what is asked for, and each way to fail."""

import os
from pathlib import Path

import pytest

from stage1.errors import PodError, Unavailable, WrongState
from stage1.linux import cgroup, dbus, dbuswire, process, scope
from tests.fakes.systemd_bus import SystemdBus

UNIT = f"clearpod-{'5e' * 32}.scope"
SLICE = "kubepods-burstable-pod1.slice"


@pytest.fixture
def slice_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cgroup of a slice, in files."""
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path / "cgroup"))
    monkeypatch.setattr(dbus, "SOCKETS", ((str(tmp_path / "bus"), True), (str(tmp_path / "private"), False)))
    path = tmp_path / "cgroup/kubepods.slice" / SLICE
    path.mkdir(parents=True)
    (tmp_path / "cgroup/cgroup.procs").touch()
    return path


def begin(slice_path: Path) -> str:
    path = scope.inside(str(slice_path), UNIT.removesuffix(".scope"))
    scope.begin([path], 4711)
    return path


@pytest.mark.parametrize(
    ("name", "calls"),
    [("bus", ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]), ("private", ["StartTransientUnit"])],
)
def test_a_scope_is_requested_with_its_slice_and_its_process(
    slice_path: Path, tmp_path: Path, name: str, calls: list[str]
) -> None:
    made = slice_path / UNIT

    def start(_: bytes) -> None:
        made.mkdir()
        (made / "cgroup.controllers").write_text("cpu memory pids\n")

    with SystemdBus(tmp_path / name, on_start=start) as bus:
        path = begin(slice_path)
    assert bus.calls == calls and path == f"{made}/vm" and scope.of(path) == str(made)
    reader = dbuswire.Reader(bus.bodies[0])
    assert reader.values("ss") == [UNIT, "fail"]
    for output in (SLICE.encode(), b"Delegate", (4711).to_bytes(4, "little")):
        assert output in bus.bodies[0]
    assert (made / "start/cgroup.procs").read_text() == "4711"
    assert (made / "cgroup.subtree_control").read_text() == "+pids", "each is written by itself"


@pytest.mark.parametrize(
    ("name", "calls"), [("bus", ["Hello", "SetUnitProperties"]), ("private", ["SetUnitProperties"])]
)
def test_a_slice_gets_a_limit_without_a_job(slice_path: Path, tmp_path: Path, name: str, calls: list[str]) -> None:
    with SystemdBus(tmp_path / name) as bus:
        scope.limit_slice(f"/kubepods.slice/{SLICE}", 123 << 20)
    assert bus.calls == calls
    assert dbuswire.Reader(bus.bodies[0]).values("s") == [SLICE]
    for output in (b"MemoryMax", (123 << 20).to_bytes(8, "little")):
        assert output in bus.bodies[0]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ("org.freedesktop.systemd1.UnitExists", WrongState, "UnitExists"),
        ("org.freedesktop.DBus.Error.AccessDenied", WrongState, "AccessDenied"),
        ("org.freedesktop.DBus.Error.ServiceUnknown", Unavailable, "ServiceUnknown"),
        ("failed", WrongState, "result is failed"),
        ("silent", Unavailable, "within 0.2 s"),
        ("closes", Unavailable, "closed the connection"),
        ("garbage", Unavailable, "invalid message"),
        ("stranger", Unavailable, "authentication"),
        ("done", WrongState, "slice"),  # it has made no cgroup there
    ],
)
def test_each_refusal_is_one_sentence(
    slice_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, error: type[PodError], text: str
) -> None:
    monkeypatch.setattr(dbus, "LIMIT_S", 0.2 if answer == "silent" else 10.0)
    with SystemdBus(tmp_path / "private", answer), pytest.raises(error, match=text):
        begin(slice_path)
    assert os.listdir(slice_path) == []


def test_without_a_socket_both_are_named(slice_path: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"{tmp_path}/bus: No such file .*{tmp_path}/private: No such file"):
        begin(slice_path)


def test_the_keeper_ends_with_its_block() -> None:
    with scope.Keeper() as keeper:
        started = process.start_time(keeper.pid)
        handle = process.open_process(keeper.pid, started)
        assert handle is not None and handle.alive()
        handle.close()
    assert process.open_process(keeper.pid, started) is None


def test_what_a_hung_systemd_leaves_is_removed(slice_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "_SYSTEMD_S", 0.02)
    path = slice_path / UNIT / "vm"
    path.parent.mkdir()
    scope.see_removed(str(path))
    assert os.listdir(slice_path) == []
    scope.see_removed(str(path))
    scope.see_removed(f"{slice_path}/clearpod-1")


def test_what_is_no_scope_is_none() -> None:
    assert scope.of("/sys/fs/cgroup/clearpod/clearpod-1") == "" == scope.of("/sys/fs/cgroup/a.scope")
    assert dbuswire.types("ssa(sv)a(sa(sv))") == ["s", "s", "a(sv)", "a(sa(sv))"]


@pytest.mark.parametrize(
    ("driver", "top", "lack", "expected"),
    [
        ("auto", "", "", True),
        ("auto", "", "no systemd", False),
        ("auto", "/unified", "", False),
        ("systemd", "/unified", "no systemd", True),
        ("cgroupfs", "", "", False),
    ],
)
def test_auto_is_systemd_where_all_cgroups_are_of_version_2(
    monkeypatch: pytest.MonkeyPatch, driver: str, top: str, lack: str, expected: bool
) -> None:
    monkeypatch.setattr(cgroup, "tree", lambda: cgroup.ROOT + top)
    monkeypatch.setattr(dbus, "why_not", lambda: lack)
    assert scope.are_used(driver) is expected
