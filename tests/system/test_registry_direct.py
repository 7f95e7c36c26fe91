# SPDX-License-Identifier: Apache-2.0
"""Layers that come without skopeo, and what happens when they don't."""

import asyncio
import contextlib
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cri.config import Config
from cri.image import progress, source
from cri.image.pull import pull
from cri.store.images import ImageStore
from stage1.rootfs.merge import merge
from tests.fakes import odd_registry
from tests.fakes.oci_layout import Layer, Layout, digest, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import children
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

from .test_registry import BASE, TOP, orphans

BIG = Layer(tar([file("big", os.urandom(400_000))]))


def test_a_plain_registry_is_asked_without_skopeo_and_blobs_are_removed_once_used(
    layout: Layout, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "skopeo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "skopeo").chmod(0o755)
    seen: list[tuple[int, int]] = []

    def looked(*args: Any, **options: Any) -> Any:
        blobs = Path(store.state_dir).glob("tmp/*/fetch1/blobs/sha256/*")
        seen.extend((status.st_size, status.st_blocks) for status in (one.stat() for one in blobs))
        return merge(*args, **options)

    monkeypatch.setattr("cri.image.pull.merge", looked)
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/plain:1")
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        pull_blocking(store, name, config=Config())
    assert sorted(seen) == sorted((len(layer.blob()), 0) for layer in (BASE, TOP))
    assert orphans(store) == []


async def test_what_brings_layers_may_be_killed_and_skopeo_goes_on(
    layout: Layout, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the killed one has left is not counted as sent by the registry once more."""
    monkeypatch.setattr(progress, "_MORE_BYTES", 1000)
    monkeypatch.setattr(source, "Download", partial(progress.Download, interval_s=0.01))

    def first_hangs(registry: OddRegistry, http: object, name: str, data: bytes) -> None:
        answer = odd_registry.half_then_hang if registry.gets[digest(BIG.blob())] == 1 else odd_registry.plainly
        answer(registry, http, name, data)  # type: ignore[arg-type]

    with OddRegistry(layout, {"1": str(layout.image([BIG])["digest"])}, first_hangs) as registry:
        task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=Config()))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        for pid in _downloading():
            os.kill(pid, signal.SIGKILL)
        assert (await task).repo_tags == (f"{registry.host}/a:1",)
        assert registry.gets[digest(BIG.blob())] == 2
    assert orphans(store) == []


def _downloading() -> list[int]:
    """The processes below this one that bring blobs."""
    todo, result = [os.getpid()], []
    while todo:
        for pid in children(todo.pop()):
            todo.append(pid)
            with contextlib.suppress(OSError):
                result += [pid] if Path(f"/proc/{pid}/comm").read_text() == "blobjob\n" else []
    return result


def test_of_an_image_some_of_whose_layers_do_not_come_plainly_skopeo_brings_these(
    layout: Layout, store: ImageStore
) -> None:
    def odd_at_first(registry: OddRegistry, http: Any, name: str, data: bytes) -> None:
        if name == digest(BIG.blob()) and registry.gets[name] == 1:
            data = data[:-1]  # as long as it was said to be, and the connection ends
        odd_registry.plainly(registry, http, name, data)

    made = str(layout.image([BASE, BIG, TOP])["digest"])
    with OddRegistry(layout, {"1": made}, odd_at_first) as registry:
        pull_blocking(store, f"{registry.host}/a:1", config=Config())
        assert [registry.gets[digest(layer.blob())] for layer in (BASE, BIG, TOP)] == [1, 2, 1]
    assert orphans(store) == []
