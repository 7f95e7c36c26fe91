# SPDX-License-Identifier: Apache-2.0
"""RuntimeConfig: the cgroup driver that the kubelet should use."""

from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def runtime_config(node: Node, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
    """Return the cgroup driver."""
    driver = pb.SYSTEMD if node.host.has_scopes else pb.CGROUPFS
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))
