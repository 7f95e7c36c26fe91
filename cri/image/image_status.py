# SPDX-License-Identifier: Apache-2.0
"""ImageStatus: one image by any of its names; an unknown one is an empty answer and no error, and so is a damaged one:
kubelet then pulls it, which replaces what is damaged.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from cri.image.describe import describe
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cri.node import Node


async def image_status(node: "Node", request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
    """Verbose adds `info`: a JSON object with the OCI config as `imageSpec`, and the `chainID` of its layers."""
    if not request.image.image:
        raise BadRequest("ImageStatus needs image.image")
    image = node.images.find(request.image.image)
    if image is None or image.aside:
        return pb.ImageStatusResponse()
    details = {"chainID": chain_id(image.config), "imageSpec": image.config}
    info = {"info": json.dumps(details)} if request.verbose else None
    described = describe(image, node.config.pinned_images, kept=node.snapshots.image_ids)
    return pb.ImageStatusResponse(image=described, info=info)


def chain_id(config: "Mapping[str, Any]") -> str:
    """The chain id of the layers of an image with this OCI config, OCI image-spec, config.md."""
    chain, *above = (config.get("rootfs") or {}).get("diff_ids") or [""]
    for one in above:
        chain = f"sha256:{hashlib.sha256(f'{chain} {one}'.encode()).hexdigest()}"
    return str(chain)
