# SPDX-License-Identifier: Apache-2.0
"""ExecSync: runs a command in a container to its end and returns its output."""

from cri.containers import exec as execs
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest


async def exec_sync(node: Node, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
    """A non-zero exit code is not an error; a timeout kills the command and is DEADLINE_EXCEEDED."""
    if request.timeout < 0:
        raise BadRequest(f"the timeout must not be negative, but it is {request.timeout}")
    pod, container = node.pods.get_container(request.container_id)
    output = await execs.run(pod, container, argv=tuple(request.cmd), timeout_s=request.timeout)
    return pb.ExecSyncResponse(stdout=output.stdout, stderr=output.stderr, exit_code=output.exit_code)
