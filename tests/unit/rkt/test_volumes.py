# SPDX-License-Identifier: Apache-2.0
"""Which volume is where in an app, and the empty ones as they are made."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest, NotFound
from stage1.linux import mount
from stage1.pod.model import Mount
from stage1.rkt import copying, make, manifest, volumes
from stage1.rkt.volumes import EmptyVolume, Volumes
from stage1.rootfs.volumes import attach
from tests.unit.rkt.pod_dir import DOCKER, Document, app, lay, root_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def of_app(place: Path, entry: Document, *, image: Document | None = None, volumes_: Any = ()) -> tuple[str, Volumes]:
    pod = lay(place, entry, image=image, volumes=list(volumes_))
    result = manifest.read(f"{pod}/pod", lambda _: str(root_of(pod).parent / "manifest"))
    return pod, volumes.of_app(result.entries[0], result.volumes, pod_dir=pod, root=str(root_of(pod)))


def host(source: Path, name: str = "v", **fields: Any) -> Document:
    return {"name": name, "kind": "host", "source": str(source), **fields}


def empty(name: str = "v", **fields: Any) -> Document:
    return {"name": name, "kind": "empty", **fields}


def mounts(*paths: str, volume: str = "v", **more: Any) -> Document:
    return {"mounts": [{"volume": volume, "path": path, **more} for path in paths]}


POINT = [{"name": "v", "path": "/p", "readOnly": True}]


@pytest.mark.parametrize(
    "points, text, read_only",
    [
        ([], None, False),
        ([], True, True),
        (POINT, None, True),
        (POINT, False, False),
        ([{"name": "v", "path": "/p"}, *POINT], None, False),
        ([{"name": "other", "path": "/p", "readOnly": True}], None, False),
    ],
)
def test_read_only_is_the_volumes_setting_or_else_the_images(
    tmp_path: Path, points: list[Document], text: bool | None, read_only: bool
) -> None:
    given = [host(tmp_path, readOnly=text), host(tmp_path, "other")]
    _, result = of_app(tmp_path, app(entry=mounts("/m"), mountPoints=points), volumes_=given)
    assert result.mounts[0] == Mount(str(tmp_path), "/m", read_only, read_only)


def test_not_recursive(tmp_path: Path) -> None:
    given = [host(tmp_path, readOnly=True, recursive=False)]
    _, result = of_app(tmp_path, app(entry=mounts("/m")), volumes_=given)
    assert result.mounts == (Mount(str(tmp_path), "/m", read_only=True, recursive=False),)


def test_mount_points_get_what_no_mount_has(tmp_path: Path) -> None:
    points = [{"name": "v", "path": "/a/../a/"}, {"name": "w", "path": "/b", "readOnly": True}]
    given = [host(tmp_path), host(tmp_path, "w")]
    _, result = of_app(tmp_path, app(entry=mounts("/a", volume="w"), mountPoints=points), volumes_=given)
    assert [(one.target, one.read_only) for one in result.mounts] == [("/a", True), ("/b", True)]


def test_a_volume_of_the_app_itself_wins(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    entry = app(entry=mounts("/m", appVolume=host(tmp_path / "own")))
    _, result = of_app(tmp_path, entry, volumes_=[host(tmp_path)])
    assert [one.source for one in result.mounts] == [str(tmp_path / "own")]


def test_sources_may_be_files_and_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    _, result = of_app(tmp_path, app(entry=mounts("/m")), volumes_=[host(tmp_path / "link")])
    assert result.mounts[0].source == str(tmp_path / "file")


def test_empty_volumes_are_shared_by_name(tmp_path: Path) -> None:
    entry = app(entry=mounts("/m"), mountPoints=[{"name": "v", "path": "/n"}])
    pod, result = of_app(tmp_path, entry, volumes_=[empty(mode="1777", uid=5, gid=6)])
    assert [one.source for one in result.mounts] == [f"{pod}/sharedVolumes/v"] * 2
    assert set(result.empty) == {EmptyVolume(f"{pod}/sharedVolumes/v", 0o1777, 5, 6)} and not result.warnings


def test_a_mount_point_without_a_volume_gets_an_empty_one(tmp_path: Path) -> None:
    pod, result = of_app(tmp_path, app(mountPoints=[{"name": "d", "path": "/etc", "readOnly": True}]))
    path = f"{pod}/sharedVolumes/one-d"
    assert result.mounts == (Mount(path, "/etc", True, True, inside="one-d.volume"),) and result.empty == (
        EmptyVolume(path),
    )
    assert result.warnings == ("app 'one': no volume for the mount point 'd' at /etc; it gets an empty one",)


def test_dockers_images_fill_it(tmp_path: Path) -> None:
    points = [{"name": "d", "path": "/etc"}, {"name": "e", "path": "/none"}]
    pod, result = of_app(tmp_path, app(mountPoints=points), image={"annotations": DOCKER})
    first, second = result.empty
    assert (first.root, first.inside) == (str(root_of(pod)), "/etc") and second.root == ""


@pytest.mark.parametrize(
    "entry, kind, sentence",
    [
        (
            mounts("/m", volume="x"),
            BadRequest,
            "app 'one': .*volume 'x' .*/m .*: v$",
        ),
        (mounts("/"), BadRequest, "app 'one': .*volume .*/, .*root"),
        (mounts("/a/.."), BadRequest, "app 'one': .*volume .*/, .*root"),
        (mounts("/dev/null"), BadRequest, "app 'one': .*volume .*/dev/null, .*device"),
        (mounts("/dev/shm/../null"), BadRequest, "app 'one': .*volume .*/dev/null, .*device"),
    ],
)
def test_what_cant_be_mounted(tmp_path: Path, entry: Document, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        of_app(tmp_path, app(entry=entry), volumes_=[host(tmp_path)])


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"app 'one': .*volume 'v' .*{tmp_path}/no"):
        of_app(tmp_path, app(entry=mounts("/m")), volumes_=[host(tmp_path / "no")])


def test_no_volumes_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"volume 'v' for /m .*manifest"):
        of_app(tmp_path, app(entry=mounts("/m")))


@needs_root
def test_an_empty_volume_is_made_once(tmp_path: Path) -> None:
    volume = EmptyVolume(str(tmp_path / "sharedVolumes" / "v"), 0o2750, 5, 6)
    make.empty_volume(volume)
    Path(volume.path, "kept").write_text("x")
    make.empty_volume(volume._replace(mode=0o700, uid=9))
    result = os.stat(volume.path)
    assert (stat.S_IMODE(result.st_mode), result.st_uid, result.st_gid) == (0o2750, 5, 6)
    assert os.listdir(volume.path) == ["kept"] and os.listdir(tmp_path / "sharedVolumes") == ["v"]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A directory with an entry of every kind, in a root whose links try to leave it."""
    place = tmp_path / "root" / "data"
    (place / "deep").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to("/data")
    (place / "file").write_text("text")
    (place / "out").symlink_to(str(tmp_path))
    os.mkfifo(place / "pipe")
    (place / "deep" / "own").write_bytes(b"x" * 100_000)
    for path, owner, mode in ((place, 7, 0o1770), (place / "deep" / "own", 9, 0o4711), (place / "pipe", 4, 0o620)):
        os.chown(path, owner, owner)
        path.chmod(mode)
    os.chown(place / "out", 3, 3, follow_symlinks=False)
    os.utime(place / "file", (1, 2))
    os.setxattr(place / "file", "user.a", b"b")
    return tmp_path / "root"


@needs_root
def test_a_filled_volume_is_as_the_image_has_it(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "v"
    make.empty_volume(EmptyVolume(str(target), root=str(full), inside="/link"))
    assert sorted(os.listdir(target)) == ["deep", "file", "out", "pipe"]
    assert (target / "deep" / "own").read_bytes() == b"x" * 100_000 and os.readlink(target / "out") == str(tmp_path)
    for name in (".", "deep", "deep/own", "file", "out", "pipe"):
        made, original = os.lstat(target / name), os.lstat(full / "data" / name)
        assert (made.st_mode, made.st_uid, made.st_gid) == (original.st_mode, original.st_uid, original.st_gid), name
    assert os.stat(target / "file").st_mtime == 2 and os.getxattr(target / "file", "user.a") == b"b"


def test_a_file_with_many_names_is_one_in_a_volume_too(tmp_path: Path) -> None:
    (tmp_path / "root/data/deep").mkdir(parents=True)
    (tmp_path / "root/data/deep/b").write_bytes(b"x" * 5000)
    for name in ("a", "c", "deep/d"):
        os.link(tmp_path / "root/data/deep/b", tmp_path / "root/data" / name)
    make.empty_volume(EmptyVolume(str(tmp_path / "v"), root=str(tmp_path / "root"), inside="/data"))
    made = [(tmp_path / "v" / name).stat() for name in ("a", "c", "deep/b", "deep/d")]
    assert {(one.st_ino, one.st_nlink, one.st_size) for one in made} == {(made[0].st_ino, 4, 5000)}


@needs_root
def test_what_the_image_has_there_may_be_a_file(full: Path, tmp_path: Path) -> None:
    make.empty_volume(EmptyVolume(str(tmp_path / "v"), root=str(full), inside="/data/file"))
    assert os.listdir(tmp_path / "v") == [] and stat.S_IMODE(os.stat(tmp_path / "v").st_mode) == 0o755


@needs_root
def test_a_failure_leaves_nothing(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_MOST_DEEP", 0)
    with pytest.raises(BadRequest, match="0 deep"):
        make.empty_volume(EmptyVolume(str(tmp_path / "volumes" / "v"), root=str(full), inside="/data"))
    assert os.listdir(tmp_path / "volumes") == []


@needs_root
@pytest.mark.parametrize("recursive, seen", [(True, ["file"]), (False, [])])
def test_without_recursion_mounts_below_are_not_seen(tmp_path: Path, recursive: bool, seen: list[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "share" / "v"
    for path in (source / "below", target, tmp_path / "tree"):
        path.mkdir(parents=True)
    mount.mount("none", str(source / "below"), "tmpfs")
    (source / "below" / "file").write_text("x")
    try:
        attach(Mount(str(source), "/m", recursive=recursive), str(tmp_path), at="v")
        result = os.listdir(target / "below")
        mount.umount(str(target), lazy=True)
    finally:
        mount.umount(str(source / "below"))
    assert result == seen
