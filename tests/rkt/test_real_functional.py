# SPDX-License-Identifier: Apache-2.0
"""What rkt's own functional tests look at and no other test here does (docs/dev/testing.md), in one pod."""

import os
from pathlib import Path

import pytest

from tests.fakes import aci
from tests.rkt.real import RealRkt, removed

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
MOUNTED = {
    "/dir1/abs/foo": "/dir2/foo",
    "/dir1/rel/bar": "/dir2/bar",
    "/dir1/../dir1/.//rel/again": "/dir2/again",
    "/dir1/../../../above": "/above",
    "/dir1/far/new/foo": "/dir2/new/foo",
    "/dir1/root/new/foo": "/new/foo",
}
"""Where a file is asked for, and where it is: links lead on inside of the app's root, and never out of it."""


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """An image with links between its directories."""
    root = aci.root(tmp_path / "root")
    for name in ("dir1", "dir2"):
        (root / name).mkdir()
    for name, target in {"abs": "/dir2", "rel": "../dir2", "far": "/../../dir2", "root": "/"}.items():
        (root / "dir1" / name).symlink_to(target)
    return aci.pack(root, tmp_path / "linked.aci", name="example.com/linked")


def test_links_below_mount_points_and_mtab_are_as_in_rkts_own_tests(rkt: RealRkt, linked: Path, tmp_path: Path) -> None:
    volumes, mounts = [], []
    for number, target in enumerate(MOUNTED):
        source = tmp_path / f"file{number}"
        source.write_text(f"{number}\n")
        volumes.append(f"--volume=v{number},kind=host,source={source}")
        mounts.append(f"--mount=volume=v{number},target={target}")
    reads = "".join(f"cat {path}; " for path in MOUNTED.values())
    pod = rkt.run(*volumes, linked, *mounts, "--exec=/bin/sh", "--", "-c", f"readlink /etc/mtab; {reads}")
    code, out, err = pod.finish()
    assert code == 0, err
    assert out.splitlines() == ["../proc/self/mounts", *map(str, range(len(MOUNTED)))]
    removed(rkt, pod)
