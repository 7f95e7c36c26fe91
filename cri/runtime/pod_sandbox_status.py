# SPDX-License-Identifier: Apache-2.0
"""PodSandboxStatus, from memory."""

import asyncio
import time

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import replies
from stage1 import placement
from stage1.vm.usage import Usage, usage

CONSOLE_LINES = 300
"""Looked at for those that tell something."""


async def pod_sandbox_status(node: Node, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
    """NOT_FOUND for an unknown id; verbose adds the VM, and what its VMM takes on the host."""
    pod = node.pods.get(request.pod_sandbox_id)
    info = {}
    if request.verbose:
        taken = await asyncio.to_thread(usage, pod.vm.pid, pod.directory) if pod.vm and pod.is_ready else Usage()
        cgroups = await asyncio.to_thread(placement.cgroups, pod.directory)
        console = await asyncio.to_thread(pod.vm.console_tail, CONSOLE_LINES) if pod.vm else ""
        info = replies.sandbox_info(pod, taken, cgroups=cgroups, console=console)
    return pb.PodSandboxStatusResponse(
        status=replies.sandbox_status(pod),
        info=info,
        containers_statuses=[replies.container_status(one) for one in pod.containers.values()],
        timestamp=time.time_ns(),
    )
