# SPDX-License-Identifier: Apache-2.0
"""An image of the store as the CRI's message. Used by ListImages and ImageStatus, so that they agree."""

from collections.abc import Collection
from fnmatch import fnmatchcase

from cri.pb import runtime_pb2 as pb
from cri.store.images import Image

_MOST_DIGITS = 18
"""More may not fit into an int64; no user has as many."""


def describe(image: Image, pins: Collection[str] = (), *, kept: Collection[str] = ()) -> pb.Image:
    """`pins` are full names of images that are pinned, in which a star stands for anything; `kept` are ids of others.

    `uid` when the image's user is a number, else `username`; a group is dropped, as kubelet wants it.
    """
    user = image.user.partition(":")[0]
    names = (*image.repo_tags, *image.repo_digests)
    is_number = user.isascii() and user.isdigit() and len(user) <= _MOST_DIGITS
    number = pb.Int64Value(value=int(user)) if is_number else None
    return pb.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size_bytes,
        uid=number,
        username="" if number else user,
        pinned=image.id in kept or any(fnmatchcase(name, pin) for name in names for pin in pins),
        spec=pb.ImageSpec(image=image.id),
    )
