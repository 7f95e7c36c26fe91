# SPDX-License-Identifier: Apache-2.0
"""ShowTemplate: shows a warmed template, and whether a pod could be a copy of it now.

An RPC of clearpod's own, for `clearpod template show`.
"""

import json
from collections.abc import Mapping

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.warmed import as_json
from stage1.errors import BadRequest

OPTIONS = ("namespace", "name")


async def show_template(node: Node, request: pb.CheckpointPodRequest) -> pb.StatusResponse:
    """`info` has it, as JSON; its files are compared with their digests. Raises NotFound."""
    shown = await node.warmed.examined(*names(request.options))
    return pb.StatusResponse(info={"template": json.dumps(as_json(shown))})


def names(options: Mapping[str, str]) -> tuple[str, str]:
    """Namespace and name. Raises BadRequest."""
    if sorted(options) != sorted(OPTIONS):
        raise BadRequest(f"a template is named by the options {' and '.join(OPTIONS)}")
    return options["namespace"], options["name"]
