# SPDX-License-Identifier: Apache-2.0
"""Images that can really run: the sample's busybox below layers of a test's own.

Used by the tests that boot virtual machines.
"""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.fakes.oci_layout import HOST_ARCH, Layer, Layout

NAME = "t"


def busybox(guest_dir: Path) -> Layer:
    """The sample's layer."""
    layout = guest_dir / "sample"
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    manifest = json.loads(_blob(layout, index["manifests"][0]).read_text(encoding="utf-8"))
    return Layer(gzip.decompress(_blob(layout, manifest["layers"][0]).read_bytes()))


def image(place: Path, layers: list[Layer], *, arch: str = HOST_ARCH, **config: Any) -> str:
    """A layout at `place` with one image; `config` is Cmd, Entrypoint, User and so on. Returns `oci:DIR:t`."""
    layout = Layout(place)
    return layout.tag(NAME, layout.image(layers, config=config, arch=arch))


def _blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / "blobs" / "sha256" / str(descriptor["digest"]).removeprefix("sha256:")
