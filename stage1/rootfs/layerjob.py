# SPDX-License-Identifier: Apache-2.0
"""One layer's tar to its erofs blob and facts: the part of `layers` that runs in the confined process."""

import json

from stage1.rootfs import facts
from stage1.rootfs.limits import Limits
from stage1.rootfs.mkfs import make

TAR, BLOB, FACTS = "layer.tar", "layer.erofs", "facts.json"
_OPTIONS = ("--tar=f", "--aufs", "-Enoinline_data", "--sort=none")
"""Contents in the order of the tar are written once; in the order of their paths they are written aside first."""


def job(arguments: tuple[str, ...]) -> int:
    """`arguments`: what the layer is called, its diff id, the limits as JSON. Reads and writes in `out`.

    Returns the number of entries. Raises what `facts.complete` and `mkfs.make` raise.
    """
    what, diff_id, limits = arguments
    layer_facts, entries = facts.complete(f"out/{TAR}", limits=Limits(*json.loads(limits)), what=what)
    make(_OPTIONS, digest=diff_id, image=f"out/{BLOB}", tar=f"out/{TAR}")
    facts.store(f"out/{FACTS}", layer_facts)
    return entries
