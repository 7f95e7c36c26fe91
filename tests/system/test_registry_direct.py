# SPDX-License-Identifier: Apache-2.0
"""Layers while they come, and what they leave."""

import os
from pathlib import Path
from typing import Any

import pytest

from cri.config import Config
from cri.store.images import ImageStore
from stage1.rootfs.merge import merge
from tests.fakes.oci_layout import Layer, Layout, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

from .test_registry import BASE, TOP, orphans

BIG = Layer(tar([file("big", os.urandom(400_000))]))


def test_blobs_are_removed_once_they_are_used(
    layout: Layout, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def looked(*args: Any, **options: Any) -> Any:
        assert list(Path(store.state_dir).glob("tmp/*/registry/out"))
        seen.extend(str(one) for one in Path(store.state_dir).glob("tmp/*/*/sha256/*"))
        return merge(*args, **options)

    monkeypatch.setattr("cri.image.convert.merge", looked)
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/plain:1")
        pull_blocking(store, name, config=Config())
    assert seen == orphans(store) == []


def parts_of(data: bytes, http: Any, *, most: int) -> None:
    """The part that is asked for, or its first `most` bytes."""
    begin = int(http.headers.get("Range", "bytes=0-")[6:-1])
    http.send_response(206 if begin else 200)
    http.send_header("Content-Length", str(len(data) - begin))
    if begin:
        http.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
    http.end_headers()
    http.wfile.write(data[begin : begin + most])


@pytest.mark.parametrize("gives_parts", [True, False])
def test_a_blob_that_breaks_off_goes_on_where_it_was(
    gives_parts: bool, layout: Layout, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a registry that gives parts, however often it breaks off; from another one it begins again, a few times."""
    seen: list[str] = []

    def broken(registry: OddRegistry, http: Any, name: str, data: bytes) -> None:
        http.close_connection = True
        if len(data) < 10_000:
            return parts_of(data, http, most=len(data))
        seen.append(http.headers.get("Range", ""))
        if not gives_parts:
            del http.headers["Range"]
        return parts_of(data, http, most=len(data) // 6 + 1 if gives_parts or len(seen) < 2 else len(data))

    with OddRegistry(layout, {"1": str(layout.image([BIG])["digest"])}, broken, bare=True) as registry:
        assert pull_blocking(store, f"{registry.host}/a:1", config=Config()).size_bytes > 400_000
    size = len(BIG.blob()) // 6 + 1
    assert seen == ["", *(f"bytes={n * size}-" for n in range(1, 6 if gives_parts else 2))]
    assert orphans(store) == []
