# SPDX-License-Identifier: Apache-2.0
"""What the host makes in an app's root so that the guest need not."""

import os
from pathlib import Path

from stage1.rkt import loader, make
from stage1.rkt.arguments import RunOptions
from stage1.rkt.loader import App
from tests.unit.rkt.pod_dir import UUID, app, lay


def _app(place: Path, *files: str) -> App:
    """An app that has these of the pod's files in its /etc."""
    one = loader.read_pod(lay(place, app("one")), RunOptions(UUID)).apps[0]
    return one._replace(container=one.container._replace(pod_files=files))


def test_what_is_mounted_in_every_app_has_its_place(tmp_path: Path) -> None:
    one = _app(tmp_path, "hosts", "hostname")
    root = Path(one.root)
    (root / "sys").symlink_to("/nowhere")
    own = (root / "etc" / "hosts", b"1.2.3.4 own\n")
    own[0].write_bytes(own[1])
    for _ in range(2):
        make.mount_points(one)
    assert own[0].read_bytes() == own[1] and (root / "etc" / "hostname").read_bytes() == b""
    assert all((root / name).stat().st_mode & 0o7777 == 0o755 for name in ("proc", "dev"))
    assert os.readlink(root / "sys") == "/nowhere", "crun says what is wrong with it"


def test_nothing_is_made_through_a_link_nor_below_a_file(tmp_path: Path) -> None:
    one = _app(tmp_path, "hostname")
    root, outside = Path(one.root), tmp_path / "outside"
    outside.mkdir()
    (root / "etc").rename(root / "old")
    (root / "etc").symlink_to(outside)
    make.mount_points(one)
    assert [*outside.iterdir()] == []
    (root / "etc").unlink()
    (root / "etc").write_bytes(b"")
    make.mount_points(one)
    on_disk = one._replace(container=one.container._replace(root_of="one"))
    (root / "etc").unlink()
    make.mount_points(on_disk)
    assert not (root / "etc").exists(), "a root on the guest's disk is made there"
