# SPDX-License-Identifier: Apache-2.0
"""ListImages: all images, or the one that the filter names; the newest first."""

from typing import TYPE_CHECKING

from cri.image.describe import describe
from cri.pb import runtime_pb2 as pb

if TYPE_CHECKING:
    from cri.node import Node


async def list_images(node: "Node", request: pb.ListImagesRequest) -> pb.ListImagesResponse:
    """The filter takes every form of a reference."""
    if wanted := request.filter.image.image:
        image = node.images.find(wanted)
        return pb.ListImagesResponse(images=[describe(image)] if image else [])
    return pb.ListImagesResponse(images=map(describe, node.images.list()))
