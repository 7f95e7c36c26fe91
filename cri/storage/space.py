# SPDX-License-Identifier: Apache-2.0
"""The space for the pods' writable layers as values, and whether one more pod has room. Pure: for `disk`, and for
`clearpod check`.
"""

from typing import NamedTuple

from stage1.errors import NoSpace

MIB = 1 << 20


class Layers(NamedTuple):
    """The disks of pods, of any daemon with this state directory: what they take, and what they may grow to."""

    used_bytes: int = 0
    inodes: int = 0
    size_bytes: int = 0


class Space(NamedTuple):
    """A moment of the state disk. `free_bytes` is what is free for everybody."""

    free_bytes: int
    layers: Layers


def require_space(space: Space, *, promised: int, needed: int, overcommit: float) -> None:
    """Raise NoSpace when pods could then together write more than `overcommit` allows; bytes.

    What they can write is what is free and what they have written already.
    """
    allowed = round(overcommit * (space.free_bytes + space.layers.used_bytes))
    if promised + needed > allowed:
        raise NoSpace(
            f"the pod's disk of {needed // MIB} MiB and the {promised // MIB} MiB that other pods may write are more "
            f"than the {allowed // MIB} MiB that storage.overcommit allows; remove pods, free some space, or give this "
            "one less by the annotation clearpod.io/scratch-mib"
        )
