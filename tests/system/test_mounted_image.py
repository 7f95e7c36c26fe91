# SPDX-License-Identifier: Apache-2.0
"""What the kernel shows of a merged image once it is mounted. Needs root and a kernel with file-backed
erofs.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri.config import Config
from cri.store.images import ImageStore
from stage1.errors import KernelError, Unsupported
from stage1.linux import idmap, mount
from stage1.linux.idmap import Extent
from stage1.rootfs.share import ImageFiles, mount_image, unmount_image
from tests.fakes.oci_layout import CAP_NET_RAW, Entry, Layer, Layout, directory, file, tar
from tests.fakes.pulled import pull_blocking

CAPABLE = (("security.capability", CAP_NET_RAW), ("user.note", b"kept"))
BASE = [
    directory("./"),
    directory("etc/"),
    file("etc/passwd", b"old\n"),
    file("gone", b"1"),
    directory("emptied/"),
    file("emptied/old"),
    directory("tmp/", 0o1777),
    file("bin/su", b"s" * 9000, 0o4755),
    Entry("bin/su2", "l", link="bin/su"),
    file("bin/ping", b"p" * 5000, 0o755, xattrs=CAPABLE),
    Entry("bin/sh", "s", link="su"),
    Entry("run/fifo", "p", mode=0o600),
    *(file(f"many/{n:05}", str(n).encode()) for n in range(1500)),
]
MIDDLE = [file(".wh.gone", b""), file("emptied/.wh..wh..opq", b""), file(".wh.many", b"")]
TOP = [
    file("etc/passwd", b"new\n"),
    file("emptied/new"),
    file("tmp/x", b"x"),
    *(file(f"many/{n:05}", b"again") for n in range(0, 1500, 7)),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(str(tmp_path / "state"))
    yield opened
    opened.close()


def files_of(store: ImageStore, tmp_path: Path, *layers: list[Entry]) -> ImageFiles:
    layout = Layout(tmp_path / "layout")
    name = layout.tag("a", layout.image([Layer(tar(layer)) for layer in layers]))
    return store.files(pull_blocking(store, name, config=Config()))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mounted"
    path.mkdir()
    yield path
    subprocess.run(["umount", "-l", "-q", str(path)])


def test_the_mounted_image_has_the_content_of_its_layers(store: ImageStore, tmp_path: Path, target: Path) -> None:
    mount_image(files_of(store, tmp_path, BASE, MIDDLE, TOP), str(target))
    assert sorted(os.listdir(target)) == ["bin", "emptied", "etc", "many", "run", "tmp"]
    assert (target / "etc/passwd").read_text() == "new\n"
    assert os.listdir(target / "emptied") == ["new"]
    assert oct((target / "tmp").stat().st_mode) == "0o41777"
    assert oct(target.stat().st_mode) == "0o40755"
    su, twin = (target / "bin/su").stat(), (target / "bin/su2").stat()
    assert (oct(su.st_mode), su.st_nlink, su.st_ino) == ("0o104755", 2, twin.st_ino)
    assert (target / "bin/su").read_bytes() == b"s" * 9000
    assert os.readlink(target / "bin/sh") == "su"
    assert os.getxattr(target / "bin/ping", "security.capability") == CAP_NET_RAW
    assert os.getxattr(target / "bin/ping", "user.note") == b"kept"
    assert sorted(os.listdir(target / "many")) == [f"{n:05}" for n in range(0, 1500, 7)]
    assert [p for p in (target / "many").iterdir() if p.read_bytes() != b"again"] == []
    assert not (target / "many/00001").exists()


def test_owners_are_those_of_a_pods_user_namespace(store: ImageStore, tmp_path: Path, target: Path) -> None:
    entries = [*BASE, file("web", uid=33, gid=34), file("far", uid=70000)]
    with namespace(Extent(0, 200000, 65536)) as ids:
        mount_image(files_of(store, tmp_path, entries), str(target), ids=ids)
    result = {name: (target / name).stat() for name in ("etc/passwd", "web", "far")}
    assert {name: (st.st_uid, st.st_gid) for name, st in result.items()} == {
        "etc/passwd": (200000, 200000),
        "web": (200033, 200034),
        "far": (65534, 200000),
    }
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    unmount_image(str(target))
    assert os.listdir(target) == []


def test_an_image_whose_owners_can_not_be_mapped_is_not_mounted(
    store: ImageStore, tmp_path: Path, target: Path
) -> None:
    with open("/dev/null", "rb") as no_namespace, pytest.raises(Unsupported, match=r"image .* idmapped mount"):
        mount_image(files_of(store, tmp_path, BASE), str(target), ids=no_namespace.fileno())
    assert os.listdir(target) == [] and not mount.is_mount_point(str(target))


def test_an_image_whose_path_is_long_is_mounted(store: ImageStore, tmp_path: Path, target: Path) -> None:
    """A path of more than 255 bytes can't be an option of fsconfig(2)."""
    files = files_of(store, tmp_path, BASE)
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    os.rename(files.merged, deep / "merged.erofs")
    mount_image(files._replace(merged=str(deep / "merged.erofs")), str(target))
    assert (target / "etc/passwd").exists()


@contextmanager
def namespace(*extents: Extent) -> Iterator[int]:
    fd = idmap.namespace(extents)
    try:
        yield fd
    finally:
        os.close(fd)


def test_nothing_of_a_mounted_image_can_act_on_the_host(store: ImageStore, tmp_path: Path, target: Path) -> None:
    mount_image(files_of(store, tmp_path, BASE), str(target))
    options = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {target} " in line)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split()[3].split(","))


def test_an_image_of_many_layers_fits_into_the_mount_options(store: ImageStore, tmp_path: Path, target: Path) -> None:
    layers = [[file(f"f{n:03}", str(n).encode() * 5000)] for n in range(127)]
    mount_image(files_of(store, tmp_path, *layers), str(target))
    assert sorted(os.listdir(target)) == [f"f{n:03}" for n in range(127)]
    assert (target / "f126").read_bytes() == b"126" * 5000


def test_a_removed_image_stays_as_long_as_it_is_mounted(store: ImageStore, tmp_path: Path, target: Path) -> None:
    files = files_of(store, tmp_path, BASE)
    mount_image(files, str(target))
    store.remove(files.id)
    assert not os.path.exists(files.merged)
    subprocess.run(["sysctl", "-qw", "vm.drop_caches=3"], stderr=subprocess.DEVNULL)
    assert (target / "bin/su").read_bytes() == b"s" * 9000


def test_unmounting_works_while_a_file_is_open_and_may_be_repeated(
    store: ImageStore, tmp_path: Path, target: Path
) -> None:
    mount_image(files_of(store, tmp_path, BASE), str(target))
    with (target / "etc/passwd").open():
        unmount_image(str(target))
    assert os.listdir(target) == []
    unmount_image(str(target))
    unmount_image(str(target / "nothing"))


def test_a_mount_that_fails_leaves_nothing_open(store: ImageStore, tmp_path: Path, target: Path) -> None:
    files = files_of(store, tmp_path, BASE)
    before = len(os.listdir("/proc/self/fd"))
    for broken in (files._replace(merged=files.config), files._replace(layers=("/nonexistent",))):
        with pytest.raises(KernelError):
            mount_image(broken, str(target))
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(target) == []
