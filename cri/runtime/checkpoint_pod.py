# SPDX-License-Identifier: Apache-2.0
"""CheckpointPod: not offered; docs/dev/cri.md says why. Clients take UNIMPLEMENTED as the absence of the feature."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from stage1.errors import Unsupported

WHY = (
    "a pod can't be written to a file: kvmtool can't save a running virtual machine, and QEMU can't "
    "while the pod's volumes are shared with the host; stop the pod and run a new one instead"
)


async def checkpoint_pod(node: Node, request: pb.CheckpointPodRequest) -> pb.CheckpointPodResponse:
    """Always UNIMPLEMENTED, with the reason."""
    raise Unsupported(WHY)
