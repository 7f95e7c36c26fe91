# SPDX-License-Identifier: Apache-2.0
"""Malicious images, from a registry that serves them: the real gzip and mkfs.erofs.

Each is refused with one sentence, other calls are served meanwhile, nothing is leaked, and the process that pulls does
not grow. Archives as such are in tests/unit/rootfs/test_hostile_layers.py.
"""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cri.config import Config
from cri.config_tables import Images
from cri.image.pull import pull
from cri.store.images import ImageStore
from stage1.errors import BadRequest, PodError
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import OverLimit
from tests.fakes.oci_layout import OCI, Layer, Layout, directory, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking
from tests.fakes.raw_tar import header, octal
from tests.fakes.registry import Registry
from tests.unit.rootfs.test_hostile_layers import deflated, forget_peak, peak_kib

from .test_registry import orphans

SMALL = Layer(tar([directory("./"), file("f")]))
MIB = 1 << 20


def manifest(layout: Layout, layers: list[dict[str, Any]], *, config: bytes, **more: Any) -> str:
    """The digest of a manifest of these parts."""
    document = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": layout.put(config, f"{OCI}.config.v1+json"),
        "layers": layers,
        **more,
    }
    return str(layout.put(json.dumps(document).encode(), f"{OCI}.manifest.v1+json")["digest"])


def config_of(diff_ids: list[str], **more: Any) -> bytes:
    """A config for this host."""
    document = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **more}
    return json.dumps(document).encode()


async def pulled_meanwhile(store: ImageStore, name: str, config: Config) -> int:
    """How often the event loop turned and the store answered while the pull ran, which is refused."""
    task = asyncio.create_task(pull(store, name, config=config))
    turns = 0
    while not task.done():
        assert store.list() == ()
        turns += 1
        await asyncio.sleep(0.005)
    with pytest.raises(OverLimit) as caught:
        await task
    assert "\n" not in str(caught.value)
    return turns


@pytest.mark.parametrize("limits", [Images(), Images(ratio=2000), Images(ratio=2000, header_kib=MIB, memory_mib=128)])
def test_a_layer_of_hundreds_of_kib_with_a_header_of_hundreds_of_mib_is_harmless(
    limits: Images, tmp_path: Path, layout: Layout, store: ImageStore
) -> None:
    size = 384 * MIB
    stored, diff_id = deflated(header(b"x", b"x", size=octal(size)), zeros=size)
    layer = layout.put(stored, f"{OCI}.layer.v1.tar+gzip")
    descriptor = {
        "digest": manifest(layout, [layer], config=config_of([diff_id])),
        "mediaType": f"{OCI}.manifest.v1+json",
    }
    path = layout.path / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(layout.tag("a", {**descriptor, "size": path.stat().st_size}), "t/bomb:1")
        forget_peak()
        before = peak_kib()
        turns = asyncio.run(pulled_meanwhile(store, name, Config(images=limits)))
        assert peak_kib() - before < 48 << 10
    assert turns > 10
    assert (orphans(store), store.list()) == ([], ())


def many(count: int) -> dict[str, str]:
    """As many labels."""
    return {str(n): "x" for n in range(count)}


DEEP = b'{"config":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    ("config", "kind", "says"),
    [
        (DEEP, Corrupt, "config of .*JSON"),
        (b'{"os":"linux","n":' + b"9" * 10_000 + b"}", Corrupt, "JSON"),
        (b'{"os":"linux","n":NaN}', Corrupt, "JSON"),
        (b"\xff\xfe" * 20, Corrupt, "JSON"),
        (config_of([], config={"Labels": many(60_000)}), OverLimit, "images.document_values = 50000"),
        (config_of([], config={"Env": ["A=" + "x" * 2 * MIB]}), OverLimit, "images.config_kib = 1024"),
        (config_of([], architecture="vax"), BadRequest, "linux/vax"),
        (config_of([], config={"Env": [["A=1"]]}), Corrupt, "whose Env is"),
    ],
)
def test_a_config_that_hurts_is_refused(
    config: bytes, kind: type[PodError], says: str, layout: Layout, store: ImageStore
) -> None:
    layer = layout.put(SMALL.blob(), SMALL.media_type())
    with (
        OddRegistry(layout, {"1": manifest(layout, [layer], config=config)}) as registry,
        pytest.raises(PodError, match=says) as caught,
    ):
        pull_blocking(store, f"{registry.host}/a:1", config=Config())
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert (orphans(store), store.list()) == ([], ())


def test_an_image_of_too_many_layers_is_refused(layout: Layout, store: ImageStore) -> None:
    layer = layout.put(SMALL.blob(), SMALL.media_type())
    with (
        OddRegistry(layout, {"1": manifest(layout, [layer] * 1025, config=config_of([]))}) as registry,
        pytest.raises(OverLimit, match=r"has 1025 layers, and images.layers = 1024"),
    ):
        pull_blocking(store, f"{registry.host}/a:1", config=Config())
    assert orphans(store) == []


def test_a_manifest_of_too_many_annotations_or_bytes_is_refused(layout: Layout, store: ImageStore) -> None:
    layer = layout.put(SMALL.blob(), SMALL.media_type())
    long = manifest(layout, [layer], config=config_of([]), annotations={"a": "x" * 200_000})
    full = manifest(layout, [layer], config=config_of([]), annotations=many(60_000))
    with OddRegistry(layout, {"long": long, "full": full}) as registry:
        with pytest.raises(OverLimit, match=r"images.manifest_kib = 100 "):
            pull_blocking(store, f"{registry.host}/a:long", config=Config(images=Images(manifest_kib=100)))
        with pytest.raises(OverLimit, match=r"images.document_values = 50000"):
            pull_blocking(store, f"{registry.host}/a:full", config=Config())
    assert orphans(store) == []


def test_indexes_in_indexes_are_followed_as_deep_as_is_allowed(layout: Layout, store: ImageStore) -> None:
    top, tags = layout.image([SMALL]), {}
    platform = top["platform"]
    for depth in range(1, 5):
        top = {**layout.index([top]), "platform": platform}
        tags[str(depth)] = str(top["digest"])
    with OddRegistry(layout, tags) as registry:
        assert pull_blocking(store, f"{registry.host}/a:3", config=Config()).repo_tags == (f"{registry.host}/a:3",)
        with pytest.raises(OverLimit, match=r"images.index_depth = 3"):
            pull_blocking(store, f"{registry.host}/a:4", config=Config())
    assert orphans(store) == []


def test_all_layers_together_are_limited(layout: Layout, store: ImageStore) -> None:
    layers = [Layer(tar([file(f"f{n}", os.urandom(700_000))])) for n in range(3)]
    with (
        OddRegistry(layout, {"1": str(layout.image(layers)["digest"])}) as registry,
        pytest.raises(OverLimit, match=r"images.image_mib = 1 "),
    ):
        pull_blocking(store, f"{registry.host}/a:1", config=Config(images=Images(image_mib=1)))
    assert (orphans(store), store.list(), os.listdir(store.layers_dir)) == ([], (), [])


def readers(kind: str = "") -> list[int]:
    """The confined processes of that kind, or of any, that our fork server has forked."""
    parents, result = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            argv = (path / "cmdline").read_bytes().split(b"\0")
            name, _, rest = (path / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        parents[int(path.name)] = int(rest.split()[1])
        if b"-I" in argv and any(word.startswith(b"stage1.rootfs.") for word in argv) and kind in ("", name):
            result.append(int(path.name))
    return [pid for pid in result if parents.get(parents[pid]) == os.getpid()]


async def _awaited(condition: Any) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ends", ["it is killed", "the pull is cancelled"])
async def test_a_process_that_reads_a_layer_may_end_at_any_time(ends: str, layout: Layout, store: ImageStore) -> None:
    large = Layer(tar([file(f"d/{n}", b"") for n in range(20_000)]))
    made = {"1": str(layout.image([large])["digest"])}

    with OddRegistry(layout, made) as registry:
        task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=Config()))
        await _awaited(lambda: readers("layerjob"))
        if ends == "it is killed":
            os.kill(readers("layerjob")[0], signal.SIGKILL)
            with pytest.raises(PodError, match=r"killed|ended") as caught:
                await task
            assert caught.value.grpc_code == "RESOURCE_EXHAUSTED"
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await _awaited(lambda: not readers() and not orphans(store))
        assert store.list() == ()
        assert (await pull(store, f"{registry.host}/a:1", config=Config())).repo_tags == (f"{registry.host}/a:1",)
    assert orphans(store) == []


def test_no_reader_is_left_after_a_pull(layout: Layout, store: ImageStore) -> None:
    with OddRegistry(layout, {"1": str(layout.image([SMALL])["digest"])}) as registry:
        pull_blocking(store, f"{registry.host}/a:1", config=Config())
    deadline = time.monotonic() + 10 * PATIENCE
    while readers():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kept = [*Path(store.layers_dir).iterdir(), *Path(store.state_dir, "images").glob("*/*")]
    assert {(path.stat().st_uid, path.stat().st_nlink) for path in kept} == {(0, 1)}
