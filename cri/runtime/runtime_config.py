# SPDX-License-Identifier: Apache-2.0
"""RuntimeConfig: which cgroup driver kubelet should use.

CGROUPFS, because the VMM is placed by writing files and no systemd is asked.
"""

from cri.node import Node
from cri.pb import runtime_pb2 as pb


async def runtime_config(node: Node, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
    """The cgroup driver."""
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CGROUPFS))
