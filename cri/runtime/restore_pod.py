# SPDX-License-Identifier: Apache-2.0
"""RestorePod: not offered; docs/dev/cri.md says why. Clients take UNIMPLEMENTED as the absence of the feature."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import Unsupported

WHY = "there is nothing to restore, since pods can't be checkpointed here; run a new sandbox instead"


async def restore_pod(node: Node, request: pb.RestorePodRequest) -> pb.RestorePodResponse:
    """Always UNIMPLEMENTED, with the reason."""
    raise Unsupported(WHY)
