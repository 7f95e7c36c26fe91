# SPDX-License-Identifier: Apache-2.0
"""Mounts with other owners, and the user namespaces that say which. Needs root and a file system that can do it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, Unsupported
from stage1.linux import idmap, mount, process
from stage1.linux.idmap import Extent
from stage1.pod.model import IdMap
from stage1.rootfs import owners

IDS = IdMap(5000, 1000)


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


def show(source: Path, target: Path, extents: tuple[Extent, ...]) -> None:
    fd = mount.open_tree(str(source))
    try:
        idmap.set_owners(fd, extents, what=str(source))
        mount.move_tree(fd, str(target))
    finally:
        os.close(fd)


def owner(path: Path) -> tuple[int, int]:
    st = path.stat()
    return st.st_uid, st.st_gid


def test_owners_are_moved_and_those_beyond_are_nobodys(places: tuple[Path, Path]) -> None:
    source, target = places
    for name, number in (("root", 0), ("last", 999), ("beyond", 1000)):
        (source / name).touch()
        os.chown(source / name, number, number)
    show(source, target, owners.readable(IDS))
    found = {name: owner(target / name)[0] for name in ("root", "last", "beyond")}
    assert found == {"root": 5000, "last": 5999, "beyond": 65534}


def test_the_hosts_root_can_make_files_for_others_only_where_it_is_an_owner(places: tuple[Path, Path]) -> None:
    source, target = places
    show(source, target, owners.writable(IDS))
    (target / "new").touch()
    os.chown(target / "new", 5033, 5034)
    assert owner(source / "new") == (33, 34)
    mount.umount(str(target))
    show(source, target, owners.readable(IDS))
    with pytest.raises(OSError, match="Value too large"):
        (target / "other").touch()


def test_mounts_below_are_mapped_too(places: tuple[Path, Path]) -> None:
    source, target = places
    (source / "below").mkdir()
    mount.mount("tmpfs", str(source / "below"), "tmpfs")
    show(source, target, owners.readable(IDS))
    assert owner(target / "below") == (5000, 5000)


def test_a_file_system_that_can_not_is_named(tmp_path: Path) -> None:
    fd = mount.open_tree("/proc/sys")
    try:
        with pytest.raises(Unsupported, match="the owners of /proc/sys can't be mapped"):
            idmap.set_owners(fd, owners.readable(IDS), what="/proc/sys")
    finally:
        os.close(fd)


def children() -> list[str]:
    return sorted(pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split())


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
        idmap.namespace(owners.readable(IDS))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("text", "wanted"), [("1\n", ""), ("0\n", "allows no"), (None, "has no user namespaces")])
def test_a_host_that_can_not_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, wanted: str
) -> None:
    path = tmp_path / "max"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(idmap, "_MOST", str(path))
    found = idmap.why_not()
    assert wanted in found
    assert bool(found) == bool(wanted)
