# SPDX-License-Identifier: Apache-2.0
"""Which pods a VM that waits can become, and when another one is booted."""

import math
from typing import Any

import pytest

from cri.config import Config
from cri.config_tables import Vm as VmConfig
from cri.pb import runtime_pb2 as pb
from cri.pool import fit
from cri.translate import sandbox
from stage1.pod.model import IdMap, Pod, Port
from tests.fakes.open_policy import OPEN

MIB = 1 << 20
PLAIN = Pod("a", "waits", memory_mib=128, vcpus=1, window_mib=64)


@pytest.mark.parametrize("other", [
    {"id": "b", "name": "web", "namespace": "prod", "uid": "1", "attempt": 3, "hostname": "web-0"},
    {"sysctls": (("net.ipv4.ip_forward", "1"),)},
    {"dns_servers": ("1.1.1.1",), "dns_searches": ("a",), "dns_options": ("ndots:5",)},
    {"ports": (Port(80, 8080),), "ingress_bits": 1000, "egress_bits": 1000},
    {"shm_bytes": 1 << 30},
])  # fmt: skip
def test_what_is_decided_after_the_boot_fits(other: dict[str, Any]) -> None:
    assert fit.fits(PLAIN._replace(**other), PLAIN)


@pytest.mark.parametrize("other", [
    {"memory_mib": 127}, {"memory_mib": 256}, {"vcpus": 2}, {"window_mib": 0}, {"hypervisor": "kvmtool"},
    {"networks": ("storage",)}, {"ids": IdMap(65536, 65536)}, {"host": ("network",)},
    {"kernel": "mine"}, {"profile": "systemd"}, {"journal": "/journal"}, {"allow_spoofing": True},
    {"scratch_mib": 16}, {"boots": True}, {"suspend": "manual"},
])  # fmt: skip
def test_what_the_vm_was_booted_with_does_not(other: dict[str, Any]) -> None:
    assert not fit.fits(PLAIN._replace(**other), PLAIN)


def test_every_field_of_a_pod_was_thought_of() -> None:
    booted = {"memory_mib", "vcpus", "window_mib", "hypervisor", "networks", "ids", "host", "kernel", "online_vcpus"}
    booted |= {"profile", "journal", "allow_spoofing", "scratch_mib", "boots", "disk_volumes"}
    booted |= {"suspend", "disk_limits"}
    assert fit.AFTER_BOOT | booted == set(Pod._fields), "say in fit.AFTER_BOOT if a VM that runs can still get it"


@pytest.mark.parametrize(("annotations", "limit", "fits"), [
    ({}, 0, True), ({"clearpod.io/shm-mib": "8"}, 0, True), ({"clearpod.io/vcpus": "1"}, 0, True),
    ({"clearpod.io/memory-mib": "99"}, 0, False), ({"clearpod.io/dax-window-mib": "8"}, 0, False),
    ({"clearpod.io/guest-profile": "default"}, 0, True), ({"clearpod.io/guest-profile": "systemd"}, 0, False),
    ({"clearpod.io/networks": "storage"}, 0, False), ({"clearpod.io/kernel": "mine"}, 0, False),
    ({"clearpod.io/allow-spoofing": "true"}, 0, False), ({"clearpod.io/allow-spoofing": "false"}, 0, True),
    ({}, 64 * MIB, False),
])  # fmt: skip
def test_what_the_cri_asks_for(annotations: dict[str, str], limit: int, fits: bool) -> None:
    config = Config(vm=VmConfig(memory_mib=128), policy=OPEN)
    expected = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="web", namespace="n"), annotations=annotations)
    expected.linux.resources.memory_limit_in_bytes = limit
    request = pb.RunPodSandboxRequest(config=expected)
    pod = sandbox.record(request, config, handlers=("",)).pod
    assert fit.fits(pod, sandbox.plain(config)) is fits


CALM = fit.Observed(
    waiting=0,
    starting=0,
    quiet_s=math.inf,
    failures=0,
    failed_s=math.inf,
    each_mib=128,
    host_mib=8000,
    available_mib=4000,
)


@pytest.mark.parametrize(("bounds", "seen", "pause_s"), [
    ((2, 0), {}, 0),
    ((2, 0), {"waiting": 1}, 0),
    ((2, 0), {"waiting": 2}, math.inf),
    ((2, 0), {"waiting": 3}, math.inf),
    ((0, 0), {}, math.inf),
    ((9, 256), {"waiting": 1}, 0),
    ((9, 256), {"waiting": 2}, math.inf),
    ((9, 127), {}, math.inf),
    ((2, 0), {"starting": 1}, math.inf),
    ((2, 0), {"quiet_s": 0.2}, 0.3),
    ((2, 0), {"available_mib": 928}, 0),
    ((2, 0), {"available_mib": 927}, 60),
    ((2, 0), {"failures": 1, "failed_s": 0.25}, 0.75),
    ((2, 0), {"failures": 1, "failed_s": 2}, 0),
    ((2, 0), {"failures": 4, "failed_s": 0}, 8),
    ((2, 0), {"failures": 5000, "failed_s": 0}, 60),
    ((2, 0), {"failures": 1, "failed_s": 0.9, "quiet_s": 0.1}, 0.4),
])  # fmt: skip
def test_when_another_is_booted(bounds: tuple[int, int], seen: dict[str, Any], pause_s: float) -> None:
    assert fit.pause_s(fit.Bounds(*bounds), CALM._replace(**seen)) == pytest.approx(pause_s)
