# SPDX-License-Identifier: Apache-2.0
"""Limits of an image. Values only: the daemon's come from `[images]` of its configuration. Used by the pull and by
the confined process that reads layers. An image that exceeds one is refused with a message that names the key.
"""

from typing import NamedTuple

from stage1.errors import BadRequest

ELAPSED = 15
"""How many times its limit of processor time a process may take altogether: a host under load, or one whose disk is
slow, gives it a small part of a processor. This limit is only for one that hangs.
"""


class OverLimit(BadRequest):
    """Something of an image is larger than this node's configuration allows."""


class Limits(NamedTuple):
    """Each is named as its key in `[images]`. Images of 10 GiB with 300000 files are far below."""

    layers: int = 1024
    """Of an image."""
    layer_mib: int = 32 << 10
    """Of one layer, unpacked."""
    image_mib: int = 64 << 10
    """Of all layers of an image, as they are kept."""
    layer_entries: int = 1_000_000
    header_kib: int = 1024
    """Of one extended header of a tar: a long name, or a PAX header with its attributes."""
    ratio: int = 200
    """Unpacked bytes for each byte of a layer's blob, past the first 64 MiB."""
    path_bytes: int = 4095
    path_depth: int = 128
    manifest_kib: int = 4096
    """Of a manifest or an index."""
    config_kib: int = 1024
    document_values: int = 50_000
    """Of values in one manifest, index or config: variables, labels, annotations, platforms."""
    index_depth: int = 3
    """How deep indexes may be nested."""
    memory_mib: int = 1024
    """Of each process that reads a layer or a document."""
    readers: int = 4
    """Layers that are converted at once; more wait."""
    pulls: int = 32
    """Pulls at once; more wait."""
    uid: int = 65530
    """The user of these processes; 0: root, without capabilities."""


def refusal(what: str, *, key: str, cap: int) -> OverLimit:
    """The error for `what` ("the layer X has more than 5 entries"), which breaks `key`."""
    return OverLimit(f"{what}, and images.{key} = {cap} in clearpod's configuration allows no more; "
                     "use another image, or raise it")  # fmt: skip
