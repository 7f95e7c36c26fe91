# SPDX-License-Identifier: Apache-2.0
"""PortForward: returns the URL at which a client reaches ports of a pod."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest


async def port_forward(node: Node, request: pb.PortForwardRequest) -> pb.PortForwardResponse:
    """`port` is advice: the client names one with each connection. Raises BadRequest, NotFound, WrongState, NoSpace."""
    if not request.pod_sandbox_id:
        raise BadRequest("pod_sandbox_id is empty")
    for port in request.port:
        if not 0 < port < 65536:
            raise BadRequest(f"{port} is not a port")
    node.pods.get(request.pod_sandbox_id).require_ready()
    return pb.PortForwardResponse(url=node.url("portforward", request))
