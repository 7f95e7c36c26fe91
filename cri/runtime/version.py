# SPDX-License-Identifier: Apache-2.0
"""Version: the first call of every client. Must answer at once, even if the node is busy."""

from cri import __version__
from cri.node import Node
from cri.pb import runtime_pb2 as pb

KUBELET_API = "0.1.0"


async def version(node: Node, request: pb.VersionRequest) -> pb.VersionResponse:
    """Names and versions; kubelet insists on 0.1.0 and v1."""
    return pb.VersionResponse(
        version=KUBELET_API, runtime_name="clearpod", runtime_version=__version__, runtime_api_version="v1"
    )
