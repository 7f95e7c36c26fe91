# SPDX-License-Identifier: Apache-2.0
"""RemoveTemplate: removes a warmed template; pods that are copies of it are not affected. An RPC of clearpod's own,
for `clearpod template rm`.
"""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.show_template import names


async def remove_template(node: Node, request: pb.CheckpointPodRequest) -> pb.StopPodSandboxResponse:
    """Remove the template. Raises NotFound."""
    await node.warmed.remove(*names(request.options))
    return pb.StopPodSandboxResponse()
