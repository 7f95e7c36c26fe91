# SPDX-License-Identifier: Apache-2.0
"""Id-mapped mounts, and the user namespaces with their maps. Needs root and a file system that supports them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, Unsupported, WrongState
from stage1.linux import idmap, mount, process
from stage1.linux.idmap import Extent
from tests.fakes.processes import children

IDS = [Extent(0, 5000, 1000)]
WITH_ROOT = [*IDS, Extent(7000, 0, 1)]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A tmpfs, and a directory to mount it at again."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    mount.mount("tmpfs", str(source), "tmpfs")
    yield source, target
    for point in mount.mounts_below(str(tmp_path)):
        mount.umount(point, lazy=True)


def show(source: Path, target: Path, extents: list[Extent]) -> None:
    fd, ids = mount.open_tree(str(source)), idmap.namespace(extents)
    try:
        idmap.set_owners(fd, ids, what=str(source))
        mount.move_tree(fd, str(target))
    finally:
        os.close(fd)
        os.close(ids)


def owner(path: Path) -> tuple[int, int]:
    st = path.stat()
    return st.st_uid, st.st_gid


def test_owners_are_moved_and_those_beyond_are_nobodys(places: tuple[Path, Path]) -> None:
    source, target = places
    for name, number in (("root", 0), ("last", 999), ("beyond", 1000)):
        (source / name).touch()
        os.chown(source / name, number, number)
    show(source, target, IDS)
    result = {name: owner(target / name)[0] for name in ("root", "last", "beyond")}
    assert result == {"root": 5000, "last": 5999, "beyond": 65534}


def test_who_makes_files_must_be_an_owner_too(places: tuple[Path, Path]) -> None:
    source, target = places
    show(source, target, WITH_ROOT)
    (target / "new").touch()
    os.chown(target / "new", 5033, 5034)
    assert owner(source / "new") == (33, 34)
    mount.umount(str(target))
    show(source, target, IDS)
    with pytest.raises(OSError, match="Value too large"):
        (target / "other").touch()


def test_no_device_opens_there_and_no_program_runs(places: tuple[Path, Path]) -> None:
    source, target = places
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    shutil.copy("/bin/true", source / "true")
    (source / "true").chmod(0o4755)
    show(source, target, WITH_ROOT)
    with pytest.raises(PermissionError):
        (target / "null").read_bytes()
    with pytest.raises(PermissionError):
        subprocess.run([target / "true"], check=True)
    assert (target / "true").stat().st_mode & 0o7777 == 0o4755


def test_mounts_below_are_mapped_too(places: tuple[Path, Path]) -> None:
    source, target = places
    (source / "below").mkdir()
    mount.mount("tmpfs", str(source / "below"), "tmpfs")
    show(source, target, IDS)
    assert owner(target / "below") == (5000, 5000)


@pytest.fixture(scope="module")
def ids() -> Iterator[int]:
    fd = idmap.namespace(IDS)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("kind", ["proc", "sysfs", "overlay", "cgroup2", "devpts", "mapped"])
def test_a_file_system_that_can_not_is_named_with_its_type(tmp_path: Path, ids: int, kind: str) -> None:
    place = tmp_path / "place"
    for name in ("place", "l", "u", "w"):
        (tmp_path / name).mkdir()
    if kind == "mapped":
        (tmp_path / "l").rmdir()
        mount.mount("tmpfs", str(tmp_path / "u"), "tmpfs")
        show(tmp_path / "u", place, IDS)
    else:
        options = f"lowerdir={tmp_path}/l,upperdir={tmp_path}/u,workdir={tmp_path}/w" if kind == "overlay" else ""
        mount.mount("none", str(place), kind, data=options)
    try:
        with pytest.raises(Unsupported, match=rf"^{place}.* volume.*{'tmpfs' if kind == 'mapped' else kind}"):
            show(place, tmp_path / "w", IDS)
    finally:
        for point in mount.mounts_below(str(tmp_path)):
            mount.umount(point)


def test_of_a_tree_the_mount_that_can_not_is_named(places: tuple[Path, Path]) -> None:
    source, target = places
    for name in ("a", "b", "c"):
        (source / name).mkdir()
    mount.mount("tmpfs", str(source / "a"), "tmpfs")
    mount.mount("proc", str(source / "b"), "proc")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(idmap.OwnersRefused, match=f"^{source}/b .*volume.*, proc,") as refused:
        show(source, target, IDS)
    assert refused.value.is_below
    with pytest.raises(idmap.OwnersRefused) as refused:
        show(source / "b", target, IDS)
    assert not refused.value.is_below
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(target) == []


@pytest.fixture
def sleeper() -> Iterator[Callable[..., tuple[int, int]]]:
    """Starts a process in a user namespace with a map: pid and start time."""
    started: list[subprocess.Popen[bytes]] = []

    def start(extents: list[Extent], *argv: str) -> tuple[int, int]:
        options = [
            word
            for one in extents
            for word in (
                "--map-users",
                f"{one.inside}:{one.outside}:{one.length}",
                "--map-groups",
                f"{one.inside}:{one.outside}:{one.length}",
            )
        ]
        command = ["unshare", "--user", *options, *argv, "sh", "-c", "echo; exec sleep 100"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout and started[-1].stdout.readline() == b"\n"
        return started[-1].pid, process.start_time(started[-1].pid)

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_mount_can_take_its_owners_from_a_process(
    places: tuple[Path, Path], sleeper: Callable[..., tuple[int, int]]
) -> None:
    source, target = places
    fd, ids = mount.open_tree(str(source)), idmap.of_process(*sleeper(IDS), IDS)
    idmap.set_owners(fd, ids, what=str(source))
    mount.move_tree(fd, str(target))
    os.close(fd)
    os.close(ids)
    assert owner(target) == (5000, 5000)


def test_a_process_that_is_not_where_it_was_put_is_refused(sleeper: Callable[..., tuple[int, int]]) -> None:
    """In our own namespace, with other ids, in one that it made itself, another process by then, ended."""
    pid, started = sleeper(IDS)
    with pytest.raises(WrongState, match="user namespace"):
        idmap.of_process(os.getpid(), process.start_time(os.getpid()), IDS)
    for others in ([Extent(0, 5000, 999)], [Extent(0, 6000, 1000)], [*IDS, Extent(1000, 9000, 1)], []):
        with pytest.raises(WrongState, match="other ids"):
            idmap.of_process(pid, started, others)
    with pytest.raises(WrongState, match="has ended"):
        idmap.of_process(pid, started + 1, IDS)
    inner = sleeper(IDS, "--setuid", "0", "--setgid", "0", "unshare", "--user", "--map-root-user")
    with pytest.raises(WrongState, match="other ids"):
        idmap.of_process(*inner, [Extent(0, 5000, 1)])


def test_a_namespace_can_be_kept_by_name(tmp_path: Path, places: tuple[Path, Path]) -> None:
    path, alive = str(tmp_path / "kept"), children()
    idmap.keep(path, IDS)
    assert children() == alive
    with open(path, "rb") as file:
        fd = mount.open_tree(str(places[0]))
        idmap.set_owners(fd, file.fileno(), what="it")
        os.close(fd)
    with pytest.raises(KernelError, match="EEXIST"):
        idmap.keep(path, IDS)


def test_a_mapping_that_can_not_be_leaves_no_process_and_no_descriptor() -> None:
    alive = children()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match="uid_map"):
        idmap.namespace([Extent(0, 5000, 10), Extent(0, 9000, 10)])
    assert len(os.listdir("/proc/self/fd")) == before
    assert children() == alive


def test_without_unshare_the_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = process.spawn
    monkeypatch.setattr(process, "spawn", lambda argv, **how: spawn(["no-unshare", *argv[1:]], **how))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match="no-unshare"):
        idmap.namespace(IDS)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("text", "expected"), [("1\n", ""), ("0\n", "allows no"), (None, "has no user namespaces")])
def test_a_host_without_mapped_mounts_reports_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: str
) -> None:
    path = tmp_path / "max"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(idmap, "_MOST", str(path))
    result = idmap.why_not()
    assert expected in result
    assert bool(result) == bool(expected)
