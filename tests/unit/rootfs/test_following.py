# SPDX-License-Identifier: Apache-2.0
"""What the host mounts below a volume later, and unmounts again, as a volume that follows shows it. Needs root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.linux import idmap, mount
from stage1.linux.idmap import Extent
from stage1.pod.model import HOST_TO_CONTAINER, Mount
from stage1.rootfs import following, volumes

IDS = [Extent(0, 500000, 65536)]


@pytest.fixture(scope="module")
def ids() -> Iterator[int]:
    fd = idmap.namespace(IDS)
    yield fd
    os.close(fd)


class Place:
    """A source `source` with some directories, and a pod's directory where it is the volume `v`."""

    def __init__(self, path: Path, ids: int) -> None:
        self.path, self.ids = path, ids
        for name in ("source/a/b", "source/c", "source/d", "tree", "share", "elsewhere"):
            (path / name).mkdir(parents=True)
        mount.bind(f"{path}/tree", f"{path}/share")
        self.volume = Mount(f"{path}/source", "/v", propagation=HOST_TO_CONTAINER)
        self.new("d", "at first")
        volumes.attach(self.volume, str(path), at="v", ids=ids)

    def new(self, name: str, text: str, kind: str = "tmpfs") -> None:
        """Mount a file system at `name` in the source, with a file that only root may read."""
        mount.mount(kind, f"{self.path}/source/{name}", kind, data="mode=700" if kind == "tmpfs" else "")
        if kind == "tmpfs":
            file = self.path / "source" / name / "file"
            file.write_text(text)
            file.chmod(0o600)

    def gone(self, name: str) -> None:
        mount.umount(f"{self.path}/source/{name}", lazy=True)

    def update(self) -> dict[str, type[Exception]]:
        refused = following.update(self.volume, following.View(str(self.path), "v", os.getpid(), self.ids))
        return {path: type(error) for path, error in refused.items()}

    @property
    def shown(self) -> dict[str, tuple[str, int]]:
        """What is mounted in the volume: its text, and the owner that the VMM sees."""
        top = f"{self.path}/share/v"
        result = (Path(point) for point in mount.mounts_below(top) if point != top)
        return {
            str(one.relative_to(top)): ((one / "file").read_text(), (one / "file").stat().st_uid)
            for one in result
            if (one / "file").exists()
        }


@pytest.fixture
def place(tmp_path: Path, ids: int) -> Iterator[Place]:
    yield Place(tmp_path, ids)
    for point in mount.mounts_below(str(tmp_path)):
        mount.umount(point, lazy=True)


def test_later_mounts_are_shown_with_mapped_owners_and_no_more_once_they_are_gone(place: Place) -> None:
    assert place.shown == {"d": ("at first", 500000)}
    place.new("c", "later")
    place.new("a", "upper")
    (place.path / "source/a/b").mkdir()
    place.new("a/b", "lower")
    assert place.update() == {}
    everything = {"a": ("upper", 500000), "a/b": ("lower", 500000), "c": ("later", 500000), "d": ("at first", 500000)}
    assert place.shown == everything
    assert place.update() == {} and place.shown == everything, "it is idempotent"
    place.gone("a")
    place.gone("d")
    place.update()
    assert place.shown == {"c": ("later", 500000)}


def test_another_file_system_in_the_same_place_is_seen(place: Place) -> None:
    place.gone("d")
    place.new("d", "another")
    place.update()
    assert place.shown == {"d": ("another", 500000)}
    place.new("d", "on top")
    place.update()
    assert place.shown == {"d": ("on top", 500000)}
    place.gone("d")
    place.update()
    assert place.shown == {"d": ("another", 500000)}


def test_what_can_not_be_mapped_is_named_and_the_others_are_shown(place: Place) -> None:
    place.new("a", "", kind="proc")
    place.new("c", "later")
    assert place.update() == {f"{place.path}/source/a": idmap.OwnersRefused}
    assert place.shown == {"c": ("later", 500000), "d": ("at first", 500000)}


def test_a_link_that_a_guest_put_in_place_of_a_mount_is_not_followed(place: Place) -> None:
    (place.path / "source/a/b").rmdir()
    (place.path / "source/a").rmdir()
    (place.path / "source/x/b").mkdir(parents=True)
    place.new("x/b", "secret")
    os.rename(place.path / "source/x", place.path / "elsewhere/x")  # the mount goes with it
    os.symlink(place.path / "elsewhere/x", place.path / "source/x")
    assert place.update() == {}
    assert place.shown == {"d": ("at first", 500000)}


def test_a_volume_that_is_gone_is_an_error_of_its_own(place: Place) -> None:
    place.new("c", "later")
    mount.umount(f"{place.path}/share/v/d", lazy=True)
    mount.umount(f"{place.path}/share/v", lazy=True)
    assert place.update() == {}
