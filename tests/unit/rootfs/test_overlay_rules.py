# SPDX-License-Identifier: Apache-2.0
"""Random stacks of layers, merged, against a model of the OCI layer rules in ten lines."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stage1.rootfs.erofs import Image
from tests.fakes.oci_layout import Entry, directory, file
from tests.unit.rootfs.test_merge import merged

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
KINDS = st.sampled_from(["file", "dir", "whiteout", "opaque"])
LAYERS = st.lists(st.dictionaries(NAMES, KINDS, max_size=5), min_size=1, max_size=4)


def proper(layer: dict[str, str]) -> dict[str, str]:
    """`layer` without what no tar says: something below a file or below a removed path."""
    leaves = {path for path, kind in layer.items() if kind in ("file", "whiteout")}
    parts = {path: path.split("/") for path in layer}
    return {
        path: kind
        for path, kind in layer.items()
        if not any("/".join(parts[path][:n]) in leaves for n in range(1, len(parts[path])))
    }


def entries(layer: dict[str, str], number: int) -> list[Entry]:
    made = []
    for path, kind in layer.items():
        parent, _, name = path.rpartition("/")
        whiteout = f"{parent}/.wh.{name}" if parent else f".wh.{name}"
        made.append(
            {
                "file": file(path, str(number).encode(), 0o600 + number),
                "dir": directory(path + "/", 0o700 + number),
                "whiteout": file(whiteout, b""),
                "opaque": file(f"{path}/.wh..wh..opq", b""),
            }[kind]
        )
    return made


def model(layers: list[dict[str, str]]) -> dict[str, int]:
    """Path -> permission bits, as if each layer were unpacked over the one before."""
    seen: dict[str, int] = {}

    def drop(path: str, *, itself: bool) -> None:
        for old in [p for p in seen if p.startswith(path + "/") or (itself and p == path)]:
            del seen[old]

    for number, layer in enumerate(layers):
        files = {p for p, mode in seen.items() if mode < 0o700}
        for path, kind in layer.items():
            # First what is removed: a layer's removals concern the layers below it only.
            if kind in ("whiteout", "file"):
                drop(path, itself=True)
            elif kind == "opaque" and path not in files:
                drop(path, itself=False)
        for path, kind in layer.items():
            if kind == "whiteout":
                parents = path.split("/")[:-1]
            else:
                parents = path.split("/")[: None if kind == "opaque" else -1]
            for n in range(1, len(parents) + 1):
                above = "/".join(parents[:n])
                if seen.get(above, 0) < 0o700:
                    seen[above] = 0o755
        for path, kind in layer.items():
            if kind == "file":
                seen[path] = 0o600 + number
            elif kind == "dir":
                seen[path] = 0o700 + number
    return seen


def visible(image: Path) -> dict[str, int]:
    result: dict[str, int] = {}
    with Image(str(image / "merged.erofs")) as opened:
        todo = [("", opened.root)]
        while todo:
            path, number = todo.pop()
            for name, child, is_directory in opened.children(number):
                below = f"{path}/{name}" if path else name
                result[below] = opened.inode(child).mode & 0o7777
                if is_directory:
                    todo.append((below, child))
    return result


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where converted layers stay: most of the small ones come more than once."""
    return tmp_path_factory.mktemp("layers")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(layers=LAYERS)
@example(layers=[{"a/b": "file"}, {"a": "whiteout"}, {"a/c": "file"}])
@example(layers=[{"a/b": "file"}, {"a": "file"}, {"a/c": "file"}])
@example(layers=[{"a/b/c": "file"}, {"a/b": "whiteout"}, {"a": "dir"}, {"a/b/a": "file"}])
@example(layers=[{"a/b": "file"}, {"a": "whiteout"}, {"a": "dir"}, {"a": "whiteout"}])
@example(layers=[{"a/b": "file"}, {"a": "opaque"}, {"a/c": "file"}])
@example(layers=[{"a/b": "file"}, {"a": "whiteout"}, {"a/c": "file"}, {"a": "file"}, {"a/b/c": "dir"}])
def test_a_merged_image_shows_what_unpacking_its_layers_would_show(kept: Path, layers: list[dict[str, str]]) -> None:
    stack = [proper(layer) for layer in layers]
    with tempfile.TemporaryDirectory() as name:
        image = merged(Path(name), *(entries(layer, n) for n, layer in enumerate(stack)), kept=kept)
        assert visible(image) == model(stack)
