# SPDX-License-Identifier: Apache-2.0
"""An overlay that is mounted once more with mapped owners. Needs root and a file system that can do it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, Unsupported
from stage1.linux import idmap, mount
from stage1.linux.idmap import Extent
from stage1.rootfs import overlay
from stage1.rootfs.overlay import Layers

OWNER = 0x70050000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A pod's directory, and beside it an overlay at `m` of `lower`, `o/upper` and `o/work`; all on a tmpfs."""
    mount.mount("tmpfs", str(tmp_path), "tmpfs")
    for name in ("lower/etc", "o/upper/one", "o/work/one", "m", "pod/share/volumes/apps/one"):
        (tmp_path / name).mkdir(parents=True)
    tmp_path.chmod(0o755)
    (tmp_path / "lower/etc/passwd").write_text("root\n")
    os.chown(tmp_path / "lower/etc/passwd", 5, 6)
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/o/upper/one,workdir={tmp_path}/o/work/one"
    mount.mount("overlay", f"{tmp_path}/m", "overlay", 0, options)
    yield tmp_path
    for point in mount.mounts_below(str(tmp_path)):
        mount.umount(point, lazy=True)


def show(place: Path, layers: Layers) -> Path:
    ids = idmap.namespace([Extent(0, OWNER, 65536)])
    try:
        overlay.show(layers, f"{place}/pod", at="volumes/apps/one", ids=ids, owner=OWNER)
    finally:
        os.close(ids)
    return place / "pod/share/volumes/apps/one"


def as_vmm(script: str, where: Path) -> str:
    """What a shell there says that is the VMM's user."""
    argv = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "sh", "-ec", script]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=where, check=False)
    return done.stdout + done.stderr


def test_the_layers_of_an_overlay_are_listed(place: Path) -> None:
    result = Layers((f"{place}/lower",), f"{place}/o/upper/one", f"{place}/o/work/one")
    assert overlay.find(f"{place}/m") == result
    assert overlay.find(f"{place}/lower") is None and overlay.find(str(place)) is None


def test_owners_are_mapped_in_both_directions(place: Path) -> None:
    layers = overlay.find(f"{place}/m")
    assert layers is not None
    shown = show(place, layers)
    assert ((shown / "etc/passwd").stat().st_uid, (shown / "etc/passwd").stat().st_gid) == (OWNER + 5, OWNER + 6)
    script = "echo x > new; mkdir d; echo y > etc/new; mkfifo d/p; rm etc/new; echo z > etc/more"
    assert as_vmm(script, shown) == ""
    upper = place / "o/upper/one"
    assert {path.stat().st_uid for path in (upper / "new", upper / "d", upper / "d/p", upper / "etc/more")} == {0}
    assert (place / "m/new").read_text() == "x\n"


def test_nothing_stays_but_the_mount(place: Path) -> None:
    layers = overlay.find(f"{place}/m")
    assert layers is not None
    shown = show(place, layers)
    assert os.listdir(place / "pod") == ["share"]
    assert mount.mounts_below(f"{place}/pod") == [str(shown)]
    status = Path("/proc/thread-self/status").read_text()
    assert "Uid:\t0\t0\t0\t0" in status and "Gid:\t0\t0\t0\t0" in status


def test_what_can_not_be_mapped_is_reported_and_leaves_nothing(place: Path) -> None:
    inner = Layers((f"{place}/m",), f"{place}/o/upper/one", f"{place}/o/work/one")
    with pytest.raises(Unsupported, match=r"overlay|idmapped mount"):
        show(place, inner)
    gone = Layers((f"{place}/none",), f"{place}/o/upper/one", f"{place}/o/work/one")
    with pytest.raises((KernelError, FileNotFoundError)):
        show(place, gone)
    assert os.listdir(place / "pod") == ["share"] and mount.mounts_below(f"{place}/pod") == []
