# SPDX-License-Identifier: Apache-2.0
"""Which owners the files of a pod with a user namespace have for its VMM, and so in its guest. Pure.

Used by share and volumes. Root of an image, or of a volume, is the first of the pod's ids; an owner beyond them nobody.
"""

from stage1.linux.idmap import Extent
from stage1.pod.model import IdMap

_UNUSED = 0xFFFFFFFE
"""Owner, on the host, of a file between its creation by the VMM and its chown. No user has it: -1 is no id at all."""


def readable(ids: IdMap) -> tuple[Extent, ...]:
    """Of what is only read."""
    return (Extent(0, ids.first, ids.length),)


def writable(ids: IdMap) -> tuple[Extent, ...]:
    """Of volumes: the 9p server is root of the host, makes files as that, and gives them to their owner then. The
    kernel lets it only where its id is some owner.
    """
    return (*readable(ids), Extent(_UNUSED, 0, 1))
