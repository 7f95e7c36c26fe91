# SPDX-License-Identifier: Apache-2.0
"""Archives of `docker save` and of others that write such files, and archives that are none."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.config import Config
from cri.store.images import ImageStore
from stage1.errors import NotFound, PodError
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import OverLimit
from tests.fakes.oci_layout import HOST_ARCH, digest, file, tar
from tests.fakes.pulled import pull_blocking

from .test_registry import BASE, TOP, orphans

LAYERS = [BASE.tar, TOP.tar]


def config(*command: str) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest(layer) for layer in LAYERS]}
    return json.dumps({"architecture": HOST_ARCH, "os": "linux", "config": {"Cmd": command}, "rootfs": rootfs}).encode()


def saved(entries: list[dict[str, object]], *links: tuple[str, str], form: str = "w", more: bytes = b"") -> bytes:
    """An archive of two layers and two configs, and its list of images."""
    files = {"one.json": config("one"), "two.json": config("two"), "a/layer.tar": LAYERS[0], "b/layer.tar": LAYERS[1]}
    files["manifest.json"] = json.dumps(entries).encode() + more
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=form) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def entry(name: str, *tags: str, layers: tuple[str, ...] = ("a/layer.tar", "b/layer.tar")) -> dict[str, object]:
    return {"Config": f"{name}.json", "RepoTags": list(tags), "Layers": list(layers)}


BOTH = [entry("one", "t/one:1"), entry("two", "t/two:1")]


@pytest.mark.parametrize(
    ("data", "image", "command"),
    [
        (saved([entry("one")]), "", "one"),
        (saved([entry("one")], form="w:gz"), "", "one"),
        (saved(BOTH), ":t/two:1", "two"),
        (saved(BOTH), ":@0", "one"),
        (saved([entry("one", layers=("a/layer.tar", "c/layer.tar"))], ("c/layer.tar", "../b/layer.tar")), "", "one"),
    ],
)
def test_an_image_of_an_archive_is_stored(
    data: bytes, image: str, command: str, tmp_path: Path, store: ImageStore
) -> None:
    """Layers may be links to others."""
    (tmp_path / "saved.tar").write_bytes(data)
    made = pull_blocking(store, f"docker-archive:{tmp_path}/saved.tar{image}", config=Config())
    assert made.config["config"]["Cmd"] == [command]
    assert made.config["rootfs"]["diff_ids"] == [digest(layer) for layer in LAYERS]
    assert (made.repo_tags, orphans(store)) == ((), [])


Make = Callable[[Path], object]


def endless_list(path: Path) -> None:
    path.write_bytes(saved([entry("one")], more=b" " * (5 << 20)))


@pytest.mark.parametrize(
    ("make", "image", "kind"),
    [
        (lambda path: None, "", NotFound),
        (os.mkdir, "", NotFound),
        (os.mkfifo, "", NotFound),
        (lambda path: path.write_bytes(b""), "", Corrupt),
        (lambda path: path.write_bytes(os.urandom(5000)), "", Corrupt),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 5000)), "", Corrupt),
        (lambda path: path.write_bytes(tar([file("other")])), "", Corrupt),
        (lambda path: path.write_bytes(saved([entry("one")])[:8000]), "", Corrupt),
        (lambda path: path.write_bytes(saved([{"Config": 7}])), "", Corrupt),
        (lambda path: path.write_bytes(saved([entry("none")])), "", Corrupt),
        (lambda path: path.write_bytes(saved([entry("one", layers=("loop",))], ("loop", "loop"))), "", Corrupt),
        (lambda path: path.write_bytes(saved([entry("one", layers=("a/layer.tar",))])), "", Corrupt),
        (lambda path: path.write_bytes(saved([], more=b"]")), "", Corrupt),
        (lambda path: path.write_bytes(saved(BOTH)), "", NotFound),
        (lambda path: path.write_bytes(saved(BOTH)), ":t/none:1", NotFound),
        (lambda path: path.write_bytes(saved(BOTH)), ":@2", NotFound),
        (endless_list, "", OverLimit),
    ],
)
def test_what_is_no_archive_is_refused_in_one_sentence_and_leaves_nothing(
    make: Make, image: str, kind: type[PodError], tmp_path: Path, store: ImageStore
) -> None:
    make(tmp_path / "saved.tar")
    with pytest.raises(kind) as caught:
        pull_blocking(store, f"docker-archive:{tmp_path}/saved.tar{image}", config=Config())
    assert type(caught.value) is kind and "saved.tar" in str(caught.value) and str(caught.value).isprintable()
    assert (orphans(store), store.list()) == ([], ())
