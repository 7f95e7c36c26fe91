# SPDX-License-Identifier: Apache-2.0
"""Reads manifests, indexes and configs: the part of `documents` that runs in the confined process.

Loaded for each pull, so it imports little.
"""

import json
from typing import Any

from cri.image import manifest
from cri.image.manifest import Manifest
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits

_REF_NAME = "org.opencontainers.image.ref.name"
_MOST_NAMES = 10_000


def job(arguments: tuple[str, ...], data: bytes) -> Any:
    """`arguments`: top, config or names; the image's name, the architecture, the limits, and a config's manifest."""
    kind, name, architecture, given, more = arguments
    limits = Limits(*json.loads(given))
    if kind == "names":
        return _names(data, name)
    if kind == "annotations":
        return manifest.kernel_annotations(data)
    if kind == "config":
        config, layers = json.loads(more)
        of = Manifest(config, tuple(layers))
        return manifest.read_config(data, of, name=name, architecture=architecture, limits=limits)
    if chosen := manifest.choose(data, architecture, name=name, limits=limits):
        return {"chosen": chosen}
    parsed = manifest.read_manifest(data, name=name, limits=limits)
    return {"config": parsed.config, "layers": parsed.layers, "sizes": manifest.sizes(data)}


def _names(data: bytes, name: str) -> dict[str, str]:
    try:
        entries = json.loads(data)["manifests"]
        digests = {str(e.get("annotations", {}).get(_REF_NAME, "")): str(e["digest"]) for e in entries[:_MOST_NAMES]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Corrupt(f"the index of {name} is not the index of an OCI layout") from None
    return digests
