# SPDX-License-Identifier: Apache-2.0
"""One layer's tar to its erofs blob and facts: the part of `layers` that runs in the confined process."""

import json

from stage1.rootfs import facts
from stage1.rootfs.limits import Limits
from stage1.rootfs.mkfs import fed
from stage1.rootfs.passing import Passing

BLOB, FACTS = "layer.erofs", "facts.json"
_OPTIONS = ("--tar=f", "--aufs", "-Enoinline_data", "--sort=none")
"""Contents in the order of the tar are written once; in the order of their paths they are written aside first."""


def job(arguments: tuple[str, ...]) -> int:
    """`arguments`: what the layer is called, its diff id, the limits as JSON. The tar comes by standard input, and goes
    on to mkfs.erofs as far as it was checked; writes to `out`.

    Returns the number of entries. Raises what `facts.complete` and `mkfs.fed` raise.
    """
    what, diff_id, limits = arguments
    image = f"out/{BLOB}"
    with fed([*_OPTIONS, image], digest=diff_id, image=image) as program:
        passing = Passing(0, program.give, program.move)
        layer_facts, entries = facts.complete(passing, program.give, limits=Limits(*json.loads(limits)), what=what)
    facts.store(f"out/{FACTS}", layer_facts)
    return entries
