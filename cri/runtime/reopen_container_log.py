# SPDX-License-Identifier: Apache-2.0
"""ReopenContainerLog: the kubelet has renamed the log file; continue in a new one."""

from cri.containers import order
from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def reopen_container_log(node: Node, request: pb.ReopenContainerLogRequest) -> pb.ReopenContainerLogResponse:
    """Only for a running container; the new file exists when this returns."""
    _, container = node.pods.get_container(request.container_id)
    order.require(container, "reopen log")
    await container.reopen_log()
    return pb.ReopenContainerLogResponse()
