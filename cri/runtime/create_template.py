# SPDX-License-Identifier: Apache-2.0
"""CreateTemplate: writes a running pod to the disk, and later pods of its namespace can start as copies of it.

An RPC of clearpod's own, for `clearpod template create`.
"""

import json

from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.warmed import as_json
from cri.policy import FORKABLE, TEMPLATE
from stage1.errors import BadRequest, WrongState


async def create_template(node: Node, request: pb.CheckpointPodRequest) -> pb.StatusResponse:
    """Make a template; `info` has it as JSON. The only option is `name`. The pod continues in any case. Raises as
    `Warmed.create`, WrongState if the policy does not allow templates in its namespace.
    """
    pod, options = node.pods.get(request.pod_sandbox_id), dict(request.options)
    if unknown := sorted(set(options) - {"name"}):
        raise BadRequest(f"CreateTemplate has no option {unknown[0][:64]!r}, but name")
    _check_policy(node, pod)
    made = await node.warmed.create(pod, options.get("name", ""))
    return pb.StatusResponse(info={"template": json.dumps(as_json(made))})


def _check_policy(node: Node, pod: LivePod) -> None:
    grant = node.config.policy.of(pod.record.pod.namespace)
    lacking = next((one for one in (FORKABLE, TEMPLATE) if one not in grant.bounds.annotations), "")
    if lacking or not grant.bounds.templates:
        key = grant.key("annotations" if lacking else "templates")
        raise WrongState(
            f"{pod.title} can't be made a template: {key} in clearpod's configuration does not allow "
            f"{lacking or 'any'} in its namespace"
        )
