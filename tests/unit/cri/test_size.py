# SPDX-License-Identifier: Apache-2.0
"""The size of a pod's VM: what its containers need, and up to where they may grow while it runs."""

import os

import pytest

from cri import policy
from cri.config import Config
from cri.config_tables import Limits, Vm
from cri.pb import runtime_pb2 as pb
from cri.pool import fit
from cri.translate import sandbox, sizes
from cri.translate.sizes import Facts, Size
from stage1.errors import BadRequest
from stage1.pod.model import Pod
from stage1.vm import limits

MIB = 1 << 20
HAS_TWO = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor is no choice")


def asked(
    limit_mib: int = 0, overhead_mib: int = 0, quota: int = 0, unified: dict[str, str] | None = None, **argv: str
) -> pb.PodSandboxConfig:
    """A sandbox with these limits and annotations."""
    resources = pb.LinuxContainerResources(
        memory_limit_in_bytes=limit_mib * MIB, cpu_quota=quota, cpu_period=100_000, unified=unified
    )
    overhead = pb.LinuxContainerResources(memory_limit_in_bytes=overhead_mib * MIB)
    names = pb.PodSandboxMetadata(name="web", namespace="default")
    annotations = {f"clearpod.io/{word.replace('_', '-')}": value for word, value in argv.items()}
    linux = pb.LinuxPodSandboxConfig(resources=resources, overhead=overhead)
    return pb.PodSandboxConfig(metadata=names, linux=linux, annotations=annotations)


def made(target: pb.PodSandboxConfig, ceiling: float = 2.0, facts: Facts = Facts()) -> Pod:  # noqa: B008 - a constant
    config = Config(vm=Vm(ceiling=ceiling))
    return sandbox.record(pb.RunPodSandboxRequest(config=target), config, handlers=("",), facts=facts).pod


@pytest.mark.parametrize(
    ("limit_mib", "overhead_mib", "unified", "kept_mib", "expected"),
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
def test_a_vm_has_space_for_what_is_requested(
    limit_mib: int, overhead_mib: int, unified: dict[str, str], kept_mib: int, expected: int
) -> None:
    config = asked(limit_mib, overhead_mib, unified=unified)
    assert sizes.needed(config, Config(), facts=Facts(kept_bytes=kept_mib * MIB)).memory_mib == expected


@pytest.mark.parametrize(
    ("limit_mib", "tmpfs_mib", "most_mib", "expected"),
    [(0, 64, 0, 192), (0, 5000, 0, 1128), (0, 5000, 200, 200), (0, 64, 100, 128), (100, 64, 0, 228)],
)
def test_empty_directories_in_memory_come_on_top_only_where_no_limit_includes_them(
    limit_mib: int, tmpfs_mib: int, most_mib: int, expected: int
) -> None:
    config = Config(limits=Limits(max_pod_memory_mib=most_mib))
    facts = Facts(host_mib=4000, tmpfs_bytes=tmpfs_mib * MIB)
    assert sizes.needed(asked(limit_mib), config, facts=facts).memory_mib == expected


@pytest.mark.parametrize(
    ("target", "ceiling", "most_mib", "host_mib", "memory_mib"),
    [
        (asked(), 2, 0, 0, 128),
        (asked(), 64, 0, 0, 128),
        (asked(64), 1, 0, 0, 192),
        (asked(64), 1.5, 0, 0, 225),
        (asked(64), 2, 0, 0, 258),
        (asked(1008, 100), 4, 0, 0, 1236 + 3024 + 56),
        (asked(64), 4, 250, 0, 250),
        (asked(64), 4, 192, 0, 192),
        (asked(64), 64, 0, 3000, 3000),
        (asked(64), 64, 0, 100, 192),
        (asked(64, memory_mib="64"), 2, 0, 0, 64),
        (asked(64, memory_mib="258"), 2, 0, 0, 258),
    ],
)
def test_a_pod_with_a_memory_limit_may_grow_to_the_ceiling(
    target: pb.PodSandboxConfig, ceiling: float, most_mib: int, host_mib: int, memory_mib: int
) -> None:
    config = Config(vm=Vm(ceiling=ceiling), limits=Limits(max_pod_memory_mib=most_mib))
    usual = sizes.ceiling(target, config, facts=Facts(host_mib=host_mib))
    assert sizes.of_pod(target, config, usual=usual).memory_mib == memory_mib


@pytest.mark.parametrize(("target", "most_mib", "need"), [(asked(64), 191, 192), (asked(64, memory_mib="90"), 80, 90)])
def test_a_pod_beyond_the_nodes_limit_is_refused(target: pb.PodSandboxConfig, most_mib: int, need: int) -> None:
    config = Config(limits=Limits(max_pod_memory_mib=most_mib))
    with pytest.raises(BadRequest, match=f"{need} MiB, .*limits.max_pod_memory_mib .*{most_mib} MiB"):
        sizes.of_pod(target, config, usual=sizes.ceiling(target, config))


def test_a_pod_without_limits_is_as_large_as_without_a_ceiling() -> None:
    assert sizes.of_pod(asked(), Config(), usual=sizes.ceiling(asked(), Config())) == Size(128, 1, 0)
    pod, waits = made(asked(), 8), sandbox.plain(Config(vm=Vm(ceiling=1)))
    assert fit.fits(pod, waits), "the warm pool is for it"


@HAS_TWO
@pytest.mark.parametrize(
    ("target", "ceiling", "size"),
    [
        (asked(quota=-1), 2, (1, 0)),
        (asked(quota=40_000), 2, (1, 0)),
        (asked(quota=60_000), 2, (2, 1)),
        (asked(quota=100_000), 1, (1, 0)),
        (asked(quota=100_000), 2, (2, 1)),
        (asked(quota=200_000), 1, (2, 0)),
        (asked(quota=100_000, vcpus="1"), 2, (1, 0)),
        (asked(quota=100_000, vcpus="2"), 2, (2, 0)),
    ],
)
def test_vcpus_that_are_not_needed_yet_are_offline(
    target: pb.PodSandboxConfig, ceiling: float, size: tuple[int, int]
) -> None:
    pod = made(target, ceiling)
    assert (pod.vcpus, pod.online_vcpus) == size


@pytest.mark.parametrize("is_emulated", [False, True])
@pytest.mark.parametrize("available_mib", [0, 95, 96, 97, 98, 120, 128, 385, 388, 500, 4000, 100_000])
def test_the_largest_vm_that_fits_into_a_limit_is_the_largest(available_mib: int, is_emulated: bool) -> None:
    most = limits.most_mib(available_mib, is_emulated=is_emulated)
    assert most == 0 or limits.estimate_mib(most, is_emulated=is_emulated) <= available_mib
    assert limits.estimate_mib(most + 64, is_emulated=is_emulated) > available_mib


def test_a_ceiling_does_not_cost_a_pod_its_cgroup() -> None:
    expected = asked(800)
    memory = Facts(allowed_bytes=(800 + 128) * MIB)
    pod = made(expected, 4, memory)
    assert 928 < pod.memory_mib < 1100 and limits.estimate_mib(pod.memory_mib, is_emulated=False) <= 128
    assert pod.is_bounded and not made(expected, 4).is_bounded and not made(asked(), 4, memory).is_bounded
    none = Facts(allowed_bytes=(800 + 64) * MIB)
    assert made(expected, 4, none).memory_mib == made(expected, 4).memory_mib, "it has no place there anyway"


def test_an_annotation_may_repeat_the_pods_size_and_not_exceed_it() -> None:
    assert made(asked(64, memory_mib="258")).memory_mib == 258
    with pytest.raises(BadRequest, match=f"{policy.MEMORY} is 259.*at most 258; policy.max_memory_mib"):
        made(asked(64, memory_mib="259"))
