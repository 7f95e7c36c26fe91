# SPDX-License-Identifier: Apache-2.0
"""ListImages: lists all images, or those that match the filter; the newest first."""

from typing import TYPE_CHECKING

from cri.image.describe import describe
from cri.pb import runtime_pb2 as pb
from cri.store import reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cri.node import Node
    from cri.store.images import Image, ImageStore


async def list_images(node: "Node", request: pb.ListImagesRequest) -> pb.ListImagesResponse:
    """The filter takes every form of a reference; one without tag and digest is all of that repository."""
    return pb.ListImagesResponse(images=matching(node, request.filter))


def matching(node: "Node", criteria: pb.ImageFilter) -> list[pb.Image]:
    """The list, also for the streamed twin of this call."""
    pins, kept = node.config.pinned_images, node.snapshots.image_ids
    return [describe(image, pins, kept=kept) for image in _named(node.images, criteria.image.image)]


def _named(images: "ImageStore", name: str) -> "Iterable[Image]":
    if not name:
        return images.list()
    repository = reference.repository(name)
    same = [one for one in images.list() if any(tag.rpartition(":")[0] == repository for tag in one.repo_tags)]
    if repository and same:
        return same
    image = images.find(name)
    return [image] if image else []
