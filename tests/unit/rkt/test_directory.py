# SPDX-License-Identifier: Apache-2.0
"""The files by which rkt is told of a pod."""

import json
import os
from pathlib import Path

import pytest

from stage1.errors import AlreadyExists, BadRequest, NotFound
from stage1.rkt import directory, runtime
from stage1.rkt.arguments import RunOptions
from tests.unit.rkt.pod_dir import UUID, app, lay


@pytest.fixture
def pod(tmp_path: Path) -> str:
    return lay(tmp_path, app())


def test_a_pid_is_written_once(pod: str) -> None:
    directory.write_pid(pod, 42)
    before = os.stat(f"{pod}/pid").st_mtime_ns
    with pytest.raises(AlreadyExists, match="started before"):
        directory.write_pid(pod, 43)
    assert Path(pod, "pid").read_text() == "42\n"
    assert os.stat(f"{pod}/pid").st_mtime_ns == before and not [name for name in os.listdir(pod) if "~" in name]


def test_a_pid_where_there_is_no_pod(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        directory.write_pid(str(tmp_path / "no"), 42)


def test_where_rkt_looks(pod: str) -> None:
    assert not directory.uses_overlay(pod) and directory.seen_by_rkt(pod) == f"{pod}/stage1/rootfs"
    Path(pod, "overlay-prepared").write_text("")
    with pytest.raises(FileNotFoundError):
        directory.seen_by_rkt(pod)
    Path(pod, "stage1TreeStoreID").write_text("deps-sha512-00\n")
    assert directory.seen_by_rkt(pod) == f"{pod}/overlay/deps-sha512-00/upper"
    for text in ("", "../..", ".."):
        Path(pod, "stage1TreeStoreID").write_text(text)
        with pytest.raises(BadRequest, match="name a tree"):
            directory.seen_by_rkt(pod)


def test_status_files(pod: str) -> None:
    assert not directory.has_status(pod, "one")
    for name in ("one", "one-created", "one-started"):
        Path(directory.status_dir(pod), name).write_text("")
    directory.forget_status(pod, "one")
    assert sorted(os.listdir(directory.status_dir(pod))) == ["one-created", "one-started"]
    directory.forget_start(pod, "one")
    assert os.listdir(directory.status_dir(pod)) == ["one-created"]
    directory.forget_status(pod, "one", marks=True)
    assert os.listdir(directory.status_dir(pod)) == []


def test_a_status_after_the_mounts_are_gone(pod: str) -> None:
    Path(pod, "overlay-prepared").write_text("")
    Path(pod, "stage1TreeStoreID").write_text("tree")
    status = Path(pod, "overlay", "tree", "upper", "rkt", "status")
    status.mkdir(parents=True)
    (status / "one").write_text("3\n")
    assert directory.has_status(pod, "one") and not directory.has_status(pod, "two")


def test_ready_is_a_symbolic_link_of_that_name(pod: str) -> None:
    path = f"{directory.stage1_root(pod)}/rkt/supervisor-status"
    assert not directory.is_ready(pod)
    directory.set_ready(pod)
    directory.set_ready(pod)
    assert os.readlink(path) == "ready" and directory.is_ready(pod)
    os.unlink(path)
    Path(path).write_text("ready")
    assert not directory.is_ready(pod)
    with pytest.raises(Exception, match="symlink"):
        directory.set_ready(pod)


def test_what_is_no_pod(tmp_path: Path, pod: str) -> None:
    directory.require(pod)
    assert directory.uuid(pod) == UUID
    with pytest.raises(NotFound, match="no pod manifest"):
        directory.require(str(tmp_path))


OPTIONS = RunOptions(UUID, debug=True, hostname="h", mds_token="t", warnings=("a",))


def test_the_arguments_of_run_are_kept(pod: str) -> None:
    runtime.save(pod, OPTIONS)
    assert runtime.load(pod) == OPTIONS
    assert os.stat(f"{pod}/runtime-config").st_mode & 0o777 == 0o600


def test_a_pod_that_was_never_started(pod: str) -> None:
    with pytest.raises(NotFound, match="not started"):
        runtime.load(pod)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"v":1}', '{"v":1,"options":{"warnings":[],"odd":1},"more":{}}', '{"v":1,"options":7}'],
)
def test_a_damaged_record(pod: str, text: str) -> None:
    Path(pod, "runtime-config").write_text(text)
    with pytest.raises(BadRequest, match=r"damaged: .*; .*remove it"):
        runtime.load(pod)


def test_a_record_of_another_time(pod: str) -> None:
    Path(pod, "runtime-config").write_text(json.dumps({"v": 2}))
    with pytest.raises(BadRequest, match=r"version 2; .*version 1"):
        runtime.load(pod)
