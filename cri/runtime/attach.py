# SPDX-License-Identifier: Apache-2.0
"""Attach: returns the URL at which a client can attach to a running container."""

from cri.containers import attach as pods
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import streams


async def attach(node: Node, request: pb.AttachRequest) -> pb.AttachResponse:
    """Return a URL; the client is attached when it connects. Raises BadRequest, NotFound, WrongState, NoSpace."""
    streams.check(request)
    _, container = node.pods.get_container(request.container_id)
    pods.require_running(container)
    return pb.AttachResponse(url=node.url("attach", request))
