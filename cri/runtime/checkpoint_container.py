# SPDX-License-Identifier: Apache-2.0
"""CheckpointContainer: not offered; docs/dev/cri.md says why. UNIMPLEMENTED tells clients so."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import Unsupported

WHY = (
    "a container can't be written to a file apart from the virtual machine that it lives in: the "
    "guest has no CRIU, and what crun would write could only be restored inside that same guest; "
    "stop the container and start a new one instead"
)


async def checkpoint_container(node: Node, request: pb.CheckpointContainerRequest) -> pb.CheckpointContainerResponse:
    """Always UNIMPLEMENTED, with the reason."""
    raise Unsupported(WHY)
