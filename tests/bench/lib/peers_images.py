# SPDX-License-Identifier: Apache-2.0
"""The images of `scripts/bench peers`, in a registry on loopback: the sample that pods run, one of the same files for
containerd's sandboxes, and a large one that is only pulled.
"""

import gzip
import json
import random
from pathlib import Path
from typing import NamedTuple

from tests.bench.lib.pods import guest_dir
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.registry import Registry

LAYERS, MIB = 4, 30
FILE_BYTES = 64 << 10
PACKED = 0.4
"""A part of each file is random, the rest repeats itself: as of programs, so much is left of it by gzip."""


class Images(NamedTuple):
    """Their references."""

    sample: str
    pause: str
    large: str


def pushed(registry: Registry, place: Path, *, mib: int = MIB) -> Images:
    """All three; the large one has some `mib` MiB as the registry keeps it."""
    sample = guest_dir() / "sample"
    layout = Layout(place / "layout")
    pause = {"Cmd": ["/bin/busybox", "sleep", "1000000"]}
    paused = layout.tag("pause", layout.image([Layer(_files_of(sample))], config=pause))
    layers = [Layer(_layer(number, mib * (1 << 20) // LAYERS)) for number in range(LAYERS)]
    large = layout.tag("large", layout.image(layers))
    return Images(
        registry.push(f"oci:{sample}:sample", "t/sample:1"),
        registry.push(paused, "t/pause:1"),
        registry.push(large, "t/large:1"),
    )


def _files_of(sample: Path) -> bytes:
    """The tar of its only layer."""
    index = json.loads((sample / "index.json").read_text(encoding="utf-8"))
    manifest = json.loads(_blob(sample, index["manifests"][0]["digest"]))
    return gzip.decompress(_blob(sample, manifest["layers"][0]["digest"]))


def _blob(sample: Path, digest: str) -> bytes:
    return (sample / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def _layer(number: int, packed_bytes: int) -> bytes:
    """The same bytes for the same number."""
    source, name = random.Random(number), f"layer{number}"
    hard = int(FILE_BYTES * PACKED)
    files = [directory("./"), directory(f"{name}/")]
    for at in range(packed_bytes // hard):
        word = source.randbytes(16)
        files.append(file(f"{name}/{at}", source.randbytes(hard) + word * ((FILE_BYTES - hard) // len(word))))
    return tar(files)
