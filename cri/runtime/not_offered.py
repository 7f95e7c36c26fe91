# SPDX-License-Identifier: Apache-2.0
"""The RPCs that are not offered, each with its reason; docs/dev/cri.md says more.

They answer UNIMPLEMENTED, which clients take as the absence of the feature.
"""

from typing import NoReturn

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import Unsupported


async def checkpoint_container(node: Node, request: pb.CheckpointContainerRequest) -> NoReturn:
    """UNIMPLEMENTED: what a container is lives in its guest."""
    raise Unsupported(
        "a container can't be written to a file apart from the virtual machine that it lives in: the "
        "guest has no CRIU, and what crun would write could only be restored inside that same guest; "
        "stop the container and start a new one instead"
    )
