# SPDX-License-Identifier: Apache-2.0
"""Exec: returns the URL at which a client can run a command in a container."""

from cri.containers import exec as execs
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import streams


async def exec(node: Node, request: pb.ExecRequest) -> pb.ExecResponse:  # noqa: A001 - named after its RPC
    """Return a URL for the streams; the command starts when a client connects. Raises BadRequest, NotFound, WrongState,
    NoSpace.
    """
    streams.check(request)
    _, container = node.pods.get_container(request.container_id)
    execs.require_running(container, tuple(request.cmd))
    return pb.ExecResponse(url=node.url("exec", request))
