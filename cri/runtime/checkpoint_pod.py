# SPDX-License-Identifier: Apache-2.0
"""CheckpointPod: writes a running pod, which continues, to a directory of the caller's."""

from cri.live import checkpoint
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.rootfs.checkpoint import spelled


async def checkpoint_pod(node: Node, request: pb.CheckpointPodRequest) -> pb.CheckpointPodResponse:
    """Write a checkpoint of a pod that can be suspended; FAILED_PRECONDITION has the reason when it can't. The
    directory must be empty (ALREADY_EXISTS), and is again after an error. No options are known.
    """
    for option in sorted(request.options):
        raise BadRequest(f"CheckpointPod has no option {option!r}; leave it out")
    pod = node.pods.get(request.pod_sandbox_id)
    container_ids = [_whole(node, pod, one=one) for one in request.container_ids]
    await checkpoint.write(pod, node.images, output=spelled(request.output_path), container_ids=container_ids)
    return pb.CheckpointPodResponse()


def _whole(node: Node, pod: LivePod, *, one: str) -> str:
    """The id that begins so, as elsewhere in the CRI, if it is one of the pod's. Raises BadRequest for several."""
    named = node.pods.find_container(one)
    return named[1].id if named and named[0] is pod else one
