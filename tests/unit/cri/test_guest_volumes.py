# SPDX-License-Identifier: Apache-2.0
"""Which volumes a guest has itself: found by the kubelet's names alone, decided once for a pod, and listed for it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.config import Config, parse
from cri.pb import runtime_pb2 as pb
from cri.translate import guest_volumes, kubelet
from stage1.errors import BadRequest
from stage1.linux import mount
from stage1.machine import LASTING_DISK
from stage1.pod import guest_volumes as listed
from stage1.pod import oci
from stage1.pod.model import Container, EmptyDir, IdMap, InMemory, Mount, Pod, Process

UID = "0c5a0d9e-1111-2222-3333-444444444444"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The kubelet's of a pod."""
    made = tmp_path / "kubelet/pods" / UID
    for name in ("empty-dir/a", "empty-dir/b", "empty-dir/mem", "configmap/map/..1", "secret/large", "csi/c"):
        (made / f"volumes/kubernetes.io~{name}").mkdir(parents=True)
    (made / "etc-hosts").write_text("127.0.0.1 localhost\n")
    (made / "volumes/kubernetes.io~configmap/map/..1/key").write_text("one")
    with (made / "volumes/kubernetes.io~secret/large/file").open("wb") as file:
        file.truncate(guest_volumes.MOST_BYTES + 1)
    return made


def _config(directory: Path, *, tables: str = "", state_dir: str = "", **keys: str) -> Config:
    root = directory.parents[1]
    lines = [f'state_dir = "{state_dir or root}"', tables, f'[volumes]\nkubelet_root = "{root}"']
    return parse("\n".join([*lines, *(f'{key} = "{value}"' for key, value in keys.items())]))


def _sandbox(**annotations: str) -> pb.PodSandboxConfig:
    names = pb.PodSandboxMetadata(name="web", namespace="default", uid=UID)
    return pb.PodSandboxConfig(metadata=names, annotations={f"clearpod.io/{k}": v for k, v in annotations.items()})


def _pod(directory: Path) -> Pod:
    return Pod("0" * 64, "web", kubelet_dir=str(directory), disk_volumes=("a", "b"), copies_files=True)


def _volume(directory: Path, name: str) -> Mount:
    return Mount(str(directory / f"volumes/kubernetes.io~{name}"), "/v")


@pytest.fixture
def memory(directory: Path) -> Iterator[Path]:
    """The emptyDir in memory, of 1 MiB."""
    path = directory / "volumes/kubernetes.io~empty-dir/mem"
    mount.mount("tmpfs", str(path), "tmpfs", data="size=1m,mode=2770,gid=7")
    yield path
    for point in mount.mounts_below(str(directory)):
        mount.umount(point, lazy=True)


def test_empty_directories_with_files_stay_on_the_host(directory: Path, memory: Path) -> None:
    empty = memory.parent
    (empty / "b/of/a/subpath").mkdir(parents=True)
    volumes = guest_volumes.of_pod(_sandbox(emptydir="guest"), _config(directory))
    assert volumes == guest_volumes.PodVolumes(str(directory), ("a", "b"), memory_volumes=("mem",))
    (empty / "b/of/file").write_text("here already")
    assert guest_volumes.of_pod(_sandbox(), _config(directory, empty_dirs="guest")).disk_volumes == ("a",)
    assert guest_volumes.of_pod(_sandbox(), _config(directory)).memory_volumes == ("mem",)
    (memory / "file").write_text("here already")
    for config in (_config(directory), _config(directory, empty_dirs="host")):
        assert guest_volumes.of_pod(_sandbox(), config) == guest_volumes.PodVolumes()


def test_a_pod_that_asks_for_it_has_all_of_them_on_the_host(directory: Path, memory: Path) -> None:
    config = _config(directory, empty_dirs="guest")
    assert guest_volumes.of_pod(_sandbox(emptydir="host"), config) == guest_volumes.PodVolumes()


def test_one_that_is_mounted_and_no_tmpfs_stays_on_the_host(directory: Path, memory: Path) -> None:
    mount.bind(str(directory), str(memory.parent / "a"))
    volumes = guest_volumes.of_pod(_sandbox(emptydir="guest"), _config(directory))
    assert (volumes.disk_volumes, volumes.memory_volumes) == (("b",), ("mem",))


@pytest.mark.parametrize("word", ["suspend", "fork-of", "snapshot"])
def test_what_is_saved_has_them_on_its_disk(directory: Path, word: str) -> None:
    assert guest_volumes.of_pod(_sandbox(**{word: "manual"}), _config(directory)).disk_volumes == ("a", "b", "mem")


def test_those_with_a_size_are_counted(directory: Path, memory: Path) -> None:
    volumes = guest_volumes.of_pod(_sandbox(), _config(directory))
    assert guest_volumes.memory_bytes(volumes, 8 << 20) == 1 << 20
    assert guest_volumes.memory_bytes(volumes, 2 << 20) == 0, "as large as without a limit"


def test_a_pod_that_has_a_disk_keeps_its_volumes_there(directory: Path) -> None:
    (directory / LASTING_DISK).parent.mkdir()
    (directory / LASTING_DISK).touch()
    assert "a" in guest_volumes.of_pod(_sandbox(emptydir="host"), _config(directory)).disk_volumes


@pytest.mark.parametrize("uid", ["", "..", "a/b", ".", "nobody"])
def test_a_pod_that_the_kubelet_does_not_know_has_none(directory: Path, uid: str) -> None:
    sandbox = _sandbox(emptydir="guest", files="guest")
    sandbox.metadata.uid = uid
    assert guest_volumes.of_pod(sandbox, _config(directory)) == guest_volumes.PodVolumes()


def test_an_unknown_value_is_refused_with_the_valid_ones(directory: Path) -> None:
    for word in ("emptydir", "files"):
        with pytest.raises(BadRequest, match=rf"clearpod.io/{word} must be guest or host.*'disk'"):
            guest_volumes.of_pod(_sandbox(**{word: "disk"}), _config(directory))


def test_mounts_go_to_the_disk_to_memory_or_stay(directory: Path) -> None:
    os.chmod(directory / "volumes/kubernetes.io~empty-dir/a", 0o2770)
    hosts = Mount(str(directory / "etc-hosts"), "/etc/hosts")
    elsewhere = Mount(str(directory.parent / "other/volumes/kubernetes.io~empty-dir/a"), "/o")
    given = (
        _volume(directory, "empty-dir/a"), _volume(directory, "empty-dir/mem"), _volume(directory, "configmap/map"),
        _volume(directory, "secret/large"), _volume(directory, "csi/c"), hosts, elsewhere,
    )  # fmt: skip
    made = guest_volumes.placed(given, _pod(directory))
    here = os.stat(directory)
    assert made[0].empty_dir == EmptyDir("a", 0o2770, here.st_uid, here.st_gid)
    assert made[2].memory == InMemory(guest_volumes.MOST_BYTES)
    assert made[5].memory.is_file
    assert [one.is_in_guest for one in made] == [True, False, True, False, False, True, False]
    assert guest_volumes.placed(given, Pod("0" * 64, "web")) == given


def test_a_termination_log_is_an_output_of_a_pod_that_can_be_suspended(directory: Path) -> None:
    at = directory / "containers/web/0a1b2c3d"
    given = tuple(Mount(str(path), "/dev/termination-log") for path in (at, at / "more", at.parent, at.parent / "0A"))
    pod = _pod(directory)
    assert guest_volumes.placed(given, pod) == given
    made, *others = guest_volumes.placed(given, pod._replace(suspend="manual"))
    assert made.memory == InMemory(guest_volumes.MOST_OUTPUT_BYTES, is_file=True, is_output=True)
    assert tuple(others) == given[1:]
    assert not guest_volumes.placed(given, pod._replace(suspend="manual", copies_files=False))[0].is_in_guest


def test_a_subpath_is_known_by_where_its_bind_leads(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"{directory}/volume-subpaths/a/main/0"
    roots: dict[str, Any] = {
        "volume-subpaths/a/main/0": ("8:1", f"/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/a/b c/d")
    }
    monkeypatch.setattr(mount, "file_systems_below", lambda path: roots)
    assert kubelet.volume(source, str(directory)) == kubelet.Volume(kubelet.EMPTY, "a", "b c/d")
    (made,) = guest_volumes.placed((Mount(source, "/v"),), _pod(directory))
    assert made.empty_dir.path == "a/b c/d"
    roots["volume-subpaths/a/main/0"] = ("8:1", "/somewhere/else")
    assert kubelet.volume(source, str(directory)) is None


def test_a_volume_in_memory_is_known_by_its_file_system(directory: Path, memory: Path) -> None:
    (memory / "b c").mkdir()
    source = directory / "volume-subpaths/mem/main/0"
    source.mkdir(parents=True)
    mount.bind(str(memory / "b c"), str(source))
    pod = Pod("0" * 64, "web", kubelet_dir=str(directory), memory_volumes=("mem",))
    whole, below = guest_volumes.placed((Mount(str(memory), "/v"), Mount(str(source), "/w")), pod)
    made = EmptyDir("mem", 0o2770, 0, 7, in_memory=True, size_bytes=1 << 20)
    assert (whole.empty_dir, below.empty_dir) == (made, made._replace(path="mem/b c"))
    mount.mount("tmpfs", str(source), "tmpfs")
    assert kubelet.volume(str(source), str(directory)) is None, "of another file system"


def test_too_many_are_refused(directory: Path) -> None:
    with pytest.raises(BadRequest, match=str(listed.MOST)):
        guest_volumes.placed((_volume(directory, "empty-dir/a"),) * (listed.MOST + 1), _pod(directory))


def test_the_guest_gets_a_line_for_each_behind_the_images_own() -> None:
    mounts = (
        Mount("/host", "/h"),
        Mount("/e", "/e", empty_dir=EmptyDir("data/a b", 0o2777, 5, 2000)),
        Mount("/m", "/m", read_only=True, memory=InMemory(4096)),
        Mount("/f", "/f", memory=InMemory(10, is_file=True)),
        Mount("/t", "/t", memory=InMemory(20, is_file=True, is_output=True)),
        Mount("/s", "/s", empty_dir=EmptyDir("mem", 0o777, 0, 7, in_memory=True, size_bytes=99)),
    )
    container = Container("c", "c", "sha256:0", Process(("sh",)), mounts, volumes=("/image",))
    text = b"disk 1 2777 1005 3000 data/a b\nmemory 2 2 4096\nmemory 3 3 10\noutput 4 4 20\n"
    text += b"tmpfs 5 99 777 1000 1007 mem\n"
    assert listed.listing(container, IdMap(1000, 65536)) == text
    seen = {one["destination"]: one for one in oci.config(Pod("0" * 64, "web"), container)["mounts"]}
    base = "/run/clearpod/containers/c/volumes"
    assert [seen[at]["source"] for at in ("/e", "/m", "/f")] == [f"{base}/1", f"{base}/2", f"{base}/3/file"]
    assert "ro" in seen["/m"]["options"] and "rw" in seen["/e"]["options"]
    assert seen["/h"]["source"].endswith("/mounts/0")


@pytest.mark.parametrize(
    ("annotations", "is_copied"),
    [
        ({}, False),
        ({"suspend": "manual"}, True),
        ({"forkable": "true"}, True),
        ({"forkable": "false"}, False),
        ({"fork-of": "web"}, True),
        ({"snapshot": "warm"}, True),
        ({"template": "none"}, False),
        ({"snapshot": "warm", "files": "host"}, False),
    ],
)
def test_a_pod_whose_guest_can_be_saved_has_copies_of_files(
    directory: Path, annotations: dict[str, str], is_copied: bool
) -> None:
    config = _config(directory, empty_dirs="host")
    assert guest_volumes.of_pod(_sandbox(**annotations), config).copies_files == is_copied
