# SPDX-License-Identifier: Apache-2.0
"""Which host ids stand for the users and groups of a pod's guest. Pure; used by rootfs.owners, vm.slots and the engine.

A VMM runs in a user namespace of its own, where it is 0: that is the first host id of the pod's slot. All ids that a
process of a container can have are mapped, from 0 to MAX_ID of `users`: the slot has those below GUEST_IDS and those of
the pod's user namespace, and the others are host ids that all guests share (docs/design/volumes.md).
"""

from collections.abc import Sequence

from stage1.errors import Unsupported
from stage1.linux.idmap import Extent, outside
from stage1.pod.model import IdMap
from stage1.pod.users import MAX_ID

GUEST_IDS = 65536
"""Ids of every guest, from 0 on, that no other guest has."""
SHARED = 1 << 31
"""The host id of the guest's id GUEST_IDS, and so on: no account and no VMM of this host has one of these."""
POD_IDS = 2 * GUEST_IDS
"""Host ids of a slot: those of a guest, and as many for the containers of a pod with a user namespace."""


def extents(first: int, ids: IdMap) -> tuple[Extent, ...]:
    """The VMM's uid_map and gid_map, when the host ids from `first` on, POD_IDS of them, are the pod's.

    Raises Unsupported when those of its user namespace (`ids`) are too many.
    """
    guest = Extent(0, first, GUEST_IDS)
    begin, end = max(ids.first, GUEST_IDS), ids.first + ids.length
    if end <= begin:
        return (guest, *_shared(GUEST_IDS, MAX_ID + 1))
    if end - begin > POD_IDS - GUEST_IDS:
        most = POD_IDS - GUEST_IDS
        raise Unsupported(
            f"the pod's user namespace has the ids {ids.first} to {end - 1}; at most {most} of them from {GUEST_IDS} "
            f"on can be mapped: give it {most} or fewer"
        )
    own = Extent(begin, first + GUEST_IDS, end - begin)
    return (guest, own, *_shared(GUEST_IDS, min(begin, MAX_ID + 1)), *_shared(end, MAX_ID + 1))


def _shared(begin: int, end: int) -> tuple[Extent, ...]:
    return (Extent(begin, SHARED + begin - GUEST_IDS, end - begin),) if begin < end else ()


def shifted(ids: IdMap, vmm: Sequence[Extent]) -> tuple[Extent, ...]:
    """Return the id mapping for a mount whose 0 on disk is the first of the pod's `ids`, for a VMM with the maps `vmm`.

    The 9p server is 0 in the guest: it makes a file as that and gives it to its owner then. For so long the file on
    the disk is the VMM's own, by the number that the host knows it by.
    """
    extents = []
    for one in vmm:
        begin, end = max(one.inside, ids.first), min(one.inside + one.length, ids.first + ids.length)
        if begin < end:
            extents.append(Extent(begin - ids.first, one.outside + begin - one.inside, end - begin))
    own = outside(vmm, 0)
    return (*extents, Extent(own, own, 1))
