# SPDX-License-Identifier: Apache-2.0
"""Volumes as they are attached: the kinds of sources, and sources that change while one looks. Needs root."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.linux import idmap, mount
from stage1.linux.idmap import Extent
from stage1.pod.model import HOST_TO_CONTAINER, Mount
from stage1.rootfs import volumes
from tests.fakes.swapper import swapping

IDS = [Extent(0, 500000, 65536)]


@pytest.fixture(scope="module")
def ids() -> Iterator[int]:
    fd = idmap.namespace(IDS)
    yield fd
    os.close(fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for sources, and a pod's, where volumes are shown below `share`."""
    for name in ("source", "tree", "share"):
        (tmp_path / name).mkdir()
    mount.bind(str(tmp_path / "tree"), str(tmp_path / "share"))
    yield tmp_path
    for point in mount.mounts_below(str(tmp_path)):
        mount.umount(point, lazy=True)


def attach(place: Path, source: Path, ids: int, **changes: object) -> Path:
    volumes.attach(Mount(str(source), "/v", **changes), str(place), at=source.name, ids=ids)  # type: ignore[arg-type]
    return place / "share" / source.name


def test_numbers_on_disk_are_those_of_the_mapping_both_ways(place: Path, ids: int) -> None:
    source = place / "source"
    for owner in (0, 1000, 65535, 65536):
        (source / str(owner)).touch()
        os.chown(source / str(owner), owner, owner)
    (source / "0").chmod(0o6750)
    shown = attach(place, source, ids)
    result = {name: os.stat(shown / name).st_uid for name in os.listdir(shown)}
    assert result == {"0": 500000, "1000": 501000, "65535": 565535, "65536": 65534}
    assert stat.S_IMODE(os.stat(shown / "0").st_mode) == 0o6750
    os.chown(shown / "0", 501234, 500005)
    assert (os.stat(source / "0").st_uid, os.stat(source / "0").st_gid) == (1234, 5)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "file"])
@pytest.mark.timeout(20)
def test_what_is_no_directory_is_shown_as_what_it_is_and_never_opened(place: Path, ids: int, kind: str) -> None:
    source = place / "source" / kind
    listener = socket.socket(socket.AF_UNIX)
    match kind:
        case "fifo":
            os.mkfifo(source)
        case "socket":
            listener.bind(str(source))
        case "device":
            os.mknod(source, 0o20600, os.makedev(1, 3))
        case _:
            source.touch()
    try:
        shown = attach(place, source, ids)
        assert stat.S_IFMT(shown.stat().st_mode) == stat.S_IFMT(source.stat().st_mode)
        assert shown.stat().st_uid == 500000
    finally:
        listener.close()


@pytest.mark.parametrize("swapped", ["data", "data/sub", "data/sub/deep"])
def test_a_link_that_took_the_place_of_a_part_is_not_followed(place: Path, ids: int, swapped: str) -> None:
    (place / "source/data/sub/deep").mkdir(parents=True)
    (place / "secret").mkdir()
    os.rename(place / "source" / swapped, place / "away")
    os.symlink(place / "secret", place / "source" / swapped)
    (place / "secret/sub/deep").mkdir(parents=True)
    with pytest.raises(BadRequest, match="symbolic link"):
        attach(place, place / "source/data/sub/deep", ids)
    assert os.listdir(place / "tree") == []


def test_a_source_that_is_swapped_all_the_time_never_shows_what_a_link_leads_to(place: Path, ids: int) -> None:
    """A guest that may write above the source exchanges a directory with a link, as fast as it can."""
    inside, other, secret = place / "source/x", place / "source/y", place / "secret"
    (inside / "sub").mkdir(parents=True)
    (secret / "sub").mkdir(parents=True)
    (secret / "sub/key").touch()
    os.symlink(secret, other)
    seen = {"shown": 0, "refused": 0}
    with swapping(place / "source", "x", "y"):
        for number in range(30_000):
            if number >= 150 and all(seen.values()):  # neither process may have had the processor until now
                break
            try:
                volumes.attach(Mount(str(inside / "sub"), "/v"), str(place), at=str(number), ids=ids)
            except (BadRequest, NotFound):
                seen["refused"] += 1
                continue
            seen["shown"] += 1
            assert os.listdir(place / "share" / str(number)) == []
    assert seen["shown"] and seen["refused"], seen


def test_a_source_that_is_not_there_or_not_below_a_directory_is_named(place: Path, ids: int) -> None:
    (place / "source/file").touch()
    for name in ("none", "file/x"):
        with pytest.raises(NotFound, match=f"volume source {place}/source/{name} .*/v"):
            attach(place, place / "source" / name, ids)


@pytest.mark.parametrize("changes", [{}, {"read_only": True}, {"propagation": HOST_TO_CONTAINER}])
def test_a_volume_with_a_mount_below_that_can_not_be_mapped_is_refused(
    place: Path, ids: int, changes: dict[str, object]
) -> None:
    (place / "source/below").mkdir()
    mount.mount("proc", str(place / "source/below"), "proc")
    with pytest.raises(Unsupported, match=f"{place}/source/below .*, proc,"):
        attach(place, place / "source", ids, **changes)
    assert mount.mounts_below(str(place / "share")) == [str(place / "share")]
    assert os.stat(attach(place, place / "source", ids, recursive=False) / "below").st_uid == 500000


def test_what_is_read_only_stays_so(place: Path, ids: int) -> None:
    (place / "source/below").mkdir()
    mount.mount("tmpfs", str(place / "source/below"), "tmpfs")
    shown = attach(place, place / "source", ids, read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (shown / "x").touch()
    assert not os.statvfs(shown / "below").f_flag & os.ST_RDONLY
    mount.umount(str(shown / "below"))
    mount.umount(str(shown))
    os.rmdir(shown)
    shown = attach(place, place / "source", ids, read_only=True, recursive_read_only=True)
    assert os.statvfs(shown / "below").f_flag & os.ST_RDONLY


def test_nothing_stays_open_after_a_failure(place: Path, ids: int) -> None:
    before = os.listdir("/proc/self/fd")
    for source in (Path("/proc/self"), place / "none", Path("/proc/sys")):
        with pytest.raises(PodError):
            attach(place, source, ids)
    assert len(os.listdir("/proc/self/fd")) == len(before)


_threads: list[str] = []


def _heard(event: str, _: tuple[object, ...]) -> None:
    if event in ("_thread.start_new_thread", "_thread.start_joinable_thread"):
        _threads.append(event)


sys.addaudithook(_heard)


@pytest.fixture
def elsewhere(place: Path) -> Iterator[int]:
    """A process with mounts of its own, which get what is mounted on the pod's share."""
    mount.set_propagation(str(place / "share"), mount.MS_PRIVATE)
    mount.set_propagation(str(place / "share"), mount.MS_SHARED)
    argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        yield process.pid
        process.kill()


def _given(place: Path, *names: str) -> list[tuple[Mount, str, int]]:
    return [(Mount(str(place / "source" / name), "/v"), name, -1) for name in names]


@pytest.mark.parametrize(("at_once", "threads"), [(64, 1), (2, 3), (1, 5)])
def test_all_volumes_of_a_container_are_mounted_by_one_thread(
    at_once: int, threads: int, place: Path, elsewhere: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "AT_ONCE", at_once)
    names = "abcde"
    for name in names:
        (place / "source" / name).mkdir()
        (place / "source" / name / f"in-{name}").touch()
    _threads.clear()
    volumes.attach_all(_given(place, *names), str(place), pid=elsewhere)
    assert len(_threads) == threads
    shown = f"/proc/{elsewhere}/root{place}/share"
    assert [os.listdir(f"{shown}/{name}") for name in names] == [[f"in-{name}"] for name in names]
    assert os.listdir(place / "share" / "a") == []  # the host sees none of them


def test_no_volume_is_mounted_and_nothing_stays_open_when_one_of_several_is_missing(
    place: Path, elsewhere: int
) -> None:
    (place / "source" / "a").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotFound, match="gone"):
        volumes.attach_all(_given(place, "a", "gone"), str(place), pid=elsewhere)
    assert len(os.listdir("/proc/self/fd")) == before
    mounts = Path(f"/proc/{elsewhere}/mounts").read_text()
    assert f"{place}/share/a" not in mounts
