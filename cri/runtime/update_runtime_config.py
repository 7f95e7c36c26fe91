# SPDX-License-Identifier: Apache-2.0
"""UpdateRuntimeConfig: accepts the node's pod CIDR from the kubelet.

CNI's own configuration decides here, so it is ignored.
"""

from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def update_runtime_config(node: Node, request: pb.UpdateRuntimeConfigRequest) -> pb.UpdateRuntimeConfigResponse:
    """Accept and ignore it, as a runtime may."""
    return pb.UpdateRuntimeConfigResponse()
