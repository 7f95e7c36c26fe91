# SPDX-License-Identifier: Apache-2.0
"""Records of pods' networks that are damaged, lost or of another version: as long as what was known before the first
plugin ran can be read, the network is given back; else the record is named, and keeps no pod. Needs root.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import PodError
from stage1.linux import namespace
from stage1.net import attach, record
from stage1.pod.model import Pod
from tests.fakes.cni import FakeCni

ORDER = ["ADD first", "ADD second", "DEL second", "DEL first"]


@pytest.fixture
def cni(tmp_path: Path) -> FakeCni:
    return FakeCni(tmp_path / "cni")


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "pod").mkdir()
    return f"{tmp_path}/pod"


@pytest.fixture
def files(cni: FakeCni, directory: str) -> Iterator[tuple[Path, Path]]:
    """The record of a pod that is attached, and the one that was synced."""
    pod = Pod(os.urandom(32).hex(), "web")
    attach.attach(pod, directory, settings=cni.settings)
    (path,) = record.every(cni.settings.cache_dir).values()
    yield Path(path), Path(f"{path}.first~")
    namespace.remove_net(f"/run/netns/clearpod-{pod.id}")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.unlink()  # the two may be one file
        path.write_text(json.dumps(document))

    return damage


def write(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        path.write_text(text)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": write(""),
    "cut off": write('{"v": 1, "net'),
    "zeros": write("\0" * 400),
    "nothing in it": write("{}"),
    "a list": write("[1]"),
    "nested without end": write("[" * 100_000),
    "a time limit of text": edit(lambda one: one.update(limit_s="soon")),
    "a netns of a number": edit(lambda one: one.update(netns=5)),
    "attachments of another type": edit(lambda one: one.update(attachments="x")),
    "a plugin of text": edit(lambda one: one["attachments"][0]["network"].update(plugins=["bridge"])),
    "a result of text": edit(lambda one: one["attachments"][0].update(result="x")),
    "a device of a number": edit(lambda one: one["attachments"][0]["call"].update(ifname=7)),
    "failures of text": edit(lambda one: one.update(failures="many")),
    "programs of numbers": edit(lambda one: one.update(bin_dirs=[1])),
    "a newer version": edit(lambda one: one.update(v=9)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_network_whose_record_is_damaged_is_given_back_by_what_was_synced(
    name: str, cni: FakeCni, directory: str, files: tuple[Path, Path]
) -> None:
    path, _ = files
    DAMAGES[name](path)
    with pytest.raises(PodError, match=str(path)):
        attach.read(directory)
    assert attach.detach(directory) == ""
    assert cni.calls() == ORDER and cni.left_over() == [] and os.listdir(directory) == []


def test_a_power_cut_may_leave_just_the_file_that_was_synced(
    cni: FakeCni, directory: str, files: tuple[Path, Path]
) -> None:
    path, first = files
    assert first.stat().st_nlink == 1 and json.loads(first.read_text())["attachments"][0]["result"] is None
    path.unlink()
    os.unlink(f"{directory}/cni.json")
    assert list(record.every(cni.settings.cache_dir).values()) == [str(path)]
    attach.detach_recorded(str(path))
    assert cni.calls() == ORDER and cni.left_over() == []


@pytest.mark.parametrize("name", DAMAGES)
def test_a_record_that_is_damaged_in_both_files_is_named_and_keeps_no_pod(
    name: str, cni: FakeCni, directory: str, files: tuple[Path, Path]
) -> None:
    path, first = files
    good = path.read_text()
    DAMAGES[name](path)
    if name != "a result of text":
        DAMAGES[name](first)
    else:
        first.write_text("{")
    with pytest.raises(PodError, match=str(path)):
        attach.detach_recorded(str(path))
    deferred = attach.detach(directory, tries=3)
    assert f"see {path}, remove them" in deferred
    assert os.listdir(directory) == [] and not os.path.exists(f"/run/netns/clearpod-{path.stem}")
    path.write_text(good)
    attach.detach_recorded(str(path))
    assert cni.left_over() == []
