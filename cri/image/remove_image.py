# SPDX-License-Identifier: Apache-2.0
"""RemoveImage: removes an image with all its names, by any of them; idempotent."""

from typing import TYPE_CHECKING

from cri.pb import runtime_pb2 as pb
from cri.threads import run_uncancellable
from stage1.errors import BadRequest

if TYPE_CHECKING:
    from cri.node import Node


async def remove_image(node: "Node", request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
    """Remove an image. Containers that use it are not affected: their pod has it mounted. In a thread, since removing
    large files is slow. Works on a full disk by means of the daemon's reserve.
    """
    if not request.image.image:
        raise BadRequest("RemoveImage needs image.image")
    await run_uncancellable(node.storage.reserve.spend, node.images.remove, request.image.image)
    return pb.RemoveImageResponse()
