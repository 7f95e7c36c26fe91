# SPDX-License-Identifier: Apache-2.0
"""ListImages: all images, or the one that the filter names; the newest first."""

from typing import TYPE_CHECKING

from cri.image.describe import describe
from cri.pb import runtime_pb2 as pb

if TYPE_CHECKING:
    from cri.node import Node


async def list_images(node: "Node", request: pb.ListImagesRequest) -> pb.ListImagesResponse:
    """The filter takes every form of a reference."""
    return pb.ListImagesResponse(images=found(node, request.filter))


def found(node: "Node", wanted: pb.ImageFilter) -> list[pb.Image]:
    """The list, also for the streamed twin of this call."""
    if wanted.image.image:
        image = node.images.find(wanted.image.image)
        return [describe(image, node.config.pinned_images)] if image else []
    return [describe(image, node.config.pinned_images) for image in node.images.list()]
