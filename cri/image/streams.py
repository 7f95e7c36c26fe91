# SPDX-License-Identifier: Apache-2.0
"""StreamImages: the list of ListImages, in parts, so that it may be larger than one message.

Called by `cri.server`."""

from collections.abc import AsyncIterator

from cri.image.list_images import matching
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate.chunks import chunks


async def stream_images(node: Node, request: pb.StreamImagesRequest) -> AsyncIterator[pb.StreamImagesResponse]:
    """No piece at all for an empty list."""
    for chunk in chunks(matching(node, request.filter)):
        yield pb.StreamImagesResponse(images=chunk)
