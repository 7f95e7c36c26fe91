# SPDX-License-Identifier: Apache-2.0
"""RestorePod: creates a pod from a checkpoint, with its containers created and not started."""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from cri.live import copies
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import restorable
from cri.runtime.create_container import create_container
from cri.runtime.run_pod_sandbox import pod_record
from cri.translate import restoring
from stage1.errors import BadRequest, PodError, WrongState
from stage1.machine import SUSPEND
from stage1.rootfs.checkpoint import spelled


async def restore_pod(node: Node, request: pb.RestorePodRequest) -> pb.RestorePodResponse:
    """Restore the pod; its containers are frozen in the guest until StartContainer. Rolled back after an error;
    FAILED_PRECONDITION has the reason why this host or this pod does not fit the checkpoint.
    """
    for option in sorted(request.options):
        raise BadRequest(f"RestorePod has no option {option!r}; leave it out")
    path = spelled(request.checkpoint_path)
    manifest = await asyncio.to_thread(restorable.read, path)
    restoring.check(manifest, request.container_configs)
    given = await node.tools.run_in_bulk(restorable.of_this_host, manifest, node.images, path=path)
    asked = pb.RunPodSandboxRequest(config=request.config, runtime_handler=request.runtime_handler)
    record = await pod_record(node, asked)
    if not record.pod.suspend:
        raise WrongState(
            f"the pod lacks the annotation {SUSPEND} of the checkpoint's pod, so its machine would differ; restore "
            "it with the same annotations"
        )
    bring_up = partial(copies.bring_up, path=path, given=given)
    pod_id = await node.pods.run(record, request.SerializeToString(deterministic=True), bring_up=bring_up)
    try:
        containers = await _created(node, pod_id, configs=request.container_configs)
    except BaseException:
        with contextlib.suppress(PodError):
            await node.pods.remove(node.pods.get(pod_id))
        raise
    return pb.RestorePodResponse(pod_sandbox_id=pod_id, restored_containers=containers)


async def _created(node: Node, pod_id: str, *, configs: Sequence[pb.ContainerConfig]) -> list[pb.RestoredContainer]:
    made = []
    for config in configs:
        asked = pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config)
        container_id = (await create_container(node, asked)).container_id
        made.append(pb.RestoredContainer(name=config.metadata.name, container_id=container_id))
    return made
