# SPDX-License-Identifier: Apache-2.0
"""Where a path inside of an image leads: always to something in the image."""

from pathlib import Path

import pytest

from stage1.errors import NotFound
from stage1.pod.model import Mount
from stage1.rootfs import volumes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image with links of every kind, beside a directory that it must not reach."""
    (tmp_path / "secret").mkdir()
    image = tmp_path / "image"
    for name in ("etc", "data/deep"):
        (image / name).mkdir(parents=True)
    (image / "data" / "file").write_text("x")
    for name, target in (("up", "../../.."), ("abs", "/data"), ("out", "../../secret"), ("loop", "loop")):
        (image / "data" / name).symlink_to(target)
    (tmp_path / "link").symlink_to("image")
    return image


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ""),
        ("data", "data"),
        ("data/file", "data/file"),
        ("data/up", ""),
        ("data/up/etc", "etc"),
        ("data/abs/deep", "data/deep"),
        ("../../etc", "etc"),
    ],
)
def test_links_are_followed_inside_of_the_image(root: Path, path: str, expected: str) -> None:
    for place in (root, root.parent / "link"):
        assert volumes.path_in_image(str(place), Mount(path, "/v", image="i")) == expected


@pytest.mark.parametrize("path", ["none", "data/out", "data/file/x", "data/loop", "../secret"])
def test_a_volume_that_is_not_in_the_image_is_refused_with_the_kubelets_reason(root: Path, path: str) -> None:
    with pytest.raises(NotFound, match=f"^ImageVolumeMountFailed: /v .*{path} .*image i: "):
        volumes.path_in_image(str(root), Mount(path, "/v", image="i"))
