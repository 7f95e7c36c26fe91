# SPDX-License-Identifier: Apache-2.0
"""Attach: returns the URL at which a client can attach to a running container."""

from cri.containers import attach as pods
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest


async def attach(node: Node, request: pb.AttachRequest) -> pb.AttachResponse:
    """Nobody is attached yet. Raises BadRequest, NotFound, WrongState, NoSpace."""
    if not request.container_id:
        raise BadRequest("container_id is empty")
    if request.tty and request.stderr:
        raise BadRequest("with a terminal there is no stderr of its own: tty and stderr exclude each other")
    if not (request.stdin or request.stdout or request.stderr):
        raise BadRequest("one of stdin, stdout and stderr must be asked for")
    _, container = node.pods.get_container(request.container_id)
    pods.require_running(container)
    return pb.AttachResponse(url=node.url("attach", request))
