# SPDX-License-Identifier: Apache-2.0
"""ImageStatus: one image by any of its names; an unknown one is an empty answer and no error."""

import json
from typing import TYPE_CHECKING

from cri.image.describe import describe
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest

if TYPE_CHECKING:
    from cri.node import Node


async def image_status(node: "Node", request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
    """Verbose adds `info`: a JSON object with the OCI config as `imageSpec`."""
    if not request.image.image:
        raise BadRequest("ImageStatus needs image.image")
    image = node.images.find(request.image.image)
    if image is None:
        return pb.ImageStatusResponse()
    info = {"info": json.dumps({"imageSpec": image.config})} if request.verbose else None
    return pb.ImageStatusResponse(image=describe(image, node.config.pinned_images), info=info)
