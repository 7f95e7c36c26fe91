# SPDX-License-Identifier: Apache-2.0
"""ListTemplates: lists the warmed templates of this node. An RPC of clearpod's own, for `clearpod template list`."""

import json

from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods.warmed import as_json


async def list_templates(node: Node, request: pb.StatusRequest) -> pb.StatusResponse:
    """`info` has all of them, as JSON. Their files are not read."""
    return pb.StatusResponse(info={"templates": json.dumps([as_json(one) for one in await node.warmed.described()])})
