# SPDX-License-Identifier: Apache-2.0
"""RPCs that run a command in a container or connect a client to a pod: ExecSync, and those whose answer is a URL of the
streaming server (`cri.streaming`), Exec, Attach and PortForward.
"""

from cri.containers import attach as attaching
from cri.containers import exec as execs
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest


async def exec_sync(node: Node, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
    """Run a command in a container to its end and return its output.

    A non-zero exit code is not an error; a timeout kills the command and is DEADLINE_EXCEEDED.
    """
    if request.timeout < 0:
        raise BadRequest(f"the timeout must not be negative, but it is {request.timeout}")
    pod, container = node.pods.get_container(request.container_id)
    output = await execs.run(pod, container, argv=tuple(request.cmd), timeout_s=request.timeout)
    return pb.ExecSyncResponse(stdout=output.stdout, stderr=output.stderr, exit_code=output.exit_code)


async def exec(node: Node, request: pb.ExecRequest) -> pb.ExecResponse:  # noqa: A001 - named after its RPC
    """Return the URL at which a client can run a command in a container; it starts when the client connects.

    Raises BadRequest, NotFound, WrongState, NoSpace.
    """
    _check_streams(request)
    _, container = node.pods.get_container(request.container_id)
    execs.require_running(container, tuple(request.cmd))
    return pb.ExecResponse(url=node.url("exec", request))


async def attach(node: Node, request: pb.AttachRequest) -> pb.AttachResponse:
    """Return the URL at which a client can attach to a running container.

    The client is attached when it connects. Raises BadRequest, NotFound, WrongState, NoSpace.
    """
    _check_streams(request)
    _, container = node.pods.get_container(request.container_id)
    attaching.require_running(container)
    return pb.AttachResponse(url=node.url("attach", request))


def _check_streams(request: pb.ExecRequest | pb.AttachRequest) -> None:
    """Raise BadRequest for a request without a container or a stream, or whose streams exclude each other."""
    if not request.container_id:
        raise BadRequest("container_id is empty")
    if request.tty and request.stderr:
        raise BadRequest("with a terminal there is no stderr of its own: tty and stderr exclude each other")
    if not (request.stdin or request.stdout or request.stderr):
        raise BadRequest("one of stdin, stdout and stderr must be asked for")


async def port_forward(node: Node, request: pb.PortForwardRequest) -> pb.PortForwardResponse:
    """Return the URL at which a client reaches ports of a pod.

    `port` is advice: the client names one with each connection. Raises BadRequest, NotFound, WrongState, NoSpace.
    """
    if not request.pod_sandbox_id:
        raise BadRequest("pod_sandbox_id is empty")
    for port in request.port:
        if not 0 < port < 65536:
            raise BadRequest(f"{port} is not a port")
    node.pods.get(request.pod_sandbox_id).require_ready()
    return pb.PortForwardResponse(url=node.url("portforward", request))
