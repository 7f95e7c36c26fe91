# SPDX-License-Identifier: Apache-2.0
"""The size of a VM whose containers request memory and have no limit."""

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.translate import sandbox

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit_mib", "overhead_mib", "unified", "kept_mib", "wanted"),
    [
        (0, 0, {"memory.min": str(300 * MIB)}, 0, 428),
        (0, 0, {"memory.low": str(300 * MIB)}, 0, 428),
        (0, 0, {"memory.min": "max", "memory.low": "-1"}, 0, 128),
        (0, 0, {"memory.min": "9" * 4000, "memory.low": "\u0663"}, 0, 128),
        (0, 32, {}, 300, 460),
        (100, 32, {"memory.min": str(200 * MIB)}, 300, 460),
        (400, 0, {}, 300, 528),
    ],
)
def test_a_vm_has_room_for_what_is_requested(
    limit_mib: int, overhead_mib: int, unified: dict[str, str], kept_mib: int, wanted: int
) -> None:
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=limit_mib * MIB, unified=unified)
    overhead = pb.LinuxContainerResources(memory_limit_in_bytes=overhead_mib * MIB)
    config = pb.PodSandboxConfig(linux=pb.LinuxPodSandboxConfig(resources=resources, overhead=overhead))
    assert sandbox.size(config, Config(), kept_bytes=kept_mib * MIB)[0] == wanted
