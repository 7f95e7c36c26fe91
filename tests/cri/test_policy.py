# SPDX-License-Identifier: Apache-2.0
"""What a pod's author asks for by annotations, over the CRI, with the policy that is the default."""

import json
import os
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import Policy, Rule
from tests.fakes import kernels
from tests.fakes.cni import FakeCni
from tests.fakes.oci_layout import file
from tests.fakes.registry import Registry

from .conftest import World

REFUSED = [
    ("memory-mib", "20000", "policy.max_memory_mib"),
    ("vcpus", "64", "policy.max_vcpus"),
    ("shm-mib", "1000000", "policy.max_shm_mib"),
    ("dax-window-mib", "16384", "policy.max_window_mib"),
    ("networks", "storage", "policy.networks"),
    ("guest-profile", "systemd", "policy.profiles"),
    ("allow-spoofing", "true", "policy.annotations"),
    *((word, "9" * 5000, "whole number") for word in ("memory-mib", "vcpus", "shm-mib", "dax-window-mib")),
    ("shm-mib", str(1 << 60), "whole number"),
    ("networks", "x" * 5000, "clearpod.io/networks"),
    ("kernel", "../" * 1000, "clearpod.io/kernel"),
]


@pytest.mark.parametrize(("word", "value", "why"), REFUSED)
async def test_annotations_that_cost_others_are_refused_and_nothing_is_made(
    world: World, word: str, value: str, why: str
) -> None:
    cni = FakeCni(world.root / "cni")
    world.host = world.host._replace(network=cni.settings)
    world.config = world.config.but(policy=Policy())
    async with world.daemon() as cri:
        config = cri.sandbox(annotations={f"clearpod.io/{word}": value})
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "INVALID_ARGUMENT"
        assert f"clearpod.io/{word}" in sentence and why in sentence and len(sentence) < 500
        assert cni.calls() == [] and world.left_over() == []
        await cri.pod(annotations={"example.com/memory-mib": "20000"})


async def test_a_rule_allows_what_the_default_refuses_for_its_namespaces_only(world: World) -> None:
    rule = Rule(namespaces=("def*",), annotations=("clearpod.io/memory-mib",), max_memory_mib=256)
    world.config = world.config.but(policy=Policy(rules=(rule,)))
    async with world.daemon() as cri:
        await cri.pod(annotations={"clearpod.io/memory-mib": "256"})
        names = {"name": "other", "namespace": "kube-system"}
        config = cri.sandbox(metadata=names, annotations={"clearpod.io/memory-mib": "256"})
        assert (await cri.refused("RunPodSandbox", config=config))[0] == "INVALID_ARGUMENT"


async def test_a_policy_that_became_stricter_leaves_pods_that_run_alone(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(annotations={"clearpod.io/memory-mib": "512"})
    world.config = world.config.but(policy=Policy())
    async with world.daemon() as cri:
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources={"cpu_shares": 100})
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_an_image_brings_no_kernel_where_the_policy_allows_none_of_an_image(world: World, tmp_path: Path) -> None:
    """Neither by its labels alone; elsewhere it is looked at."""
    labels = kernels.labelled(path="/kernel", network="none")
    rule = Rule(namespaces=("default",), kernels=("default", "mine"))
    world.config = world.config.but(policy=Policy(rules=(rule,)))
    with Registry(tmp_path / "registry") as registry:
        image = kernels.push(registry, tmp_path, "t/kernel:1", files=[file("kernel", b"none")], labels=labels)
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=image))
            config = cri.config(image=pb.ImageSpec(image=image))
            code, text = await cri.refused("CreateContainer", pod_sandbox_id=await cri.pod(), config=config)
            assert code == "INVALID_ARGUMENT" and "policy.kernels" in text and "'image'" in text
            other = cri.sandbox("other")
            other.metadata.namespace = "elsewhere"
            pod = (await cri("RunPodSandbox", config=other)).pod_sandbox_id
            code, text = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
            assert code == "INVALID_ARGUMENT" and "policy" not in text and "/kernel" in text


async def test_an_image_with_an_invalid_file_of_uruncs_is_refused_unless_annotations_name_a_kernel(
    world: World, tmp_path: Path
) -> None:
    named = {"io.clearpod.kernel.path": "/kernel", "io.clearpod.kernel.network": "none"}
    with Registry(tmp_path / "registry") as registry:
        image = kernels.push(registry, tmp_path, "t/broken:1", files=[file("urunc.json", b'{"com.')], labels={})
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=image))
            pod = await cri.pod()
            for annotations, word in (({}, "urunc.json"), (named, "/kernel")):
                config = cri.config(image=pb.ImageSpec(image=image), annotations=annotations)
                code, text = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
                assert word in text and code in ("INVALID_ARGUMENT", "NOT_FOUND"), text


async def test_vcpus_beyond_the_hosts_processors_are_limited_and_shown(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    most = os.cpu_count() or 1
    async with world.daemon() as cri:
        for number in (most, most + 3):
            pod = await cri.pod(
                metadata={"name": f"p{number}", "namespace": "default"}, annotations={"clearpod.io/vcpus": str(number)}
            )
            status = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
            seen = json.loads(status.info["info"])["vm"]
            assert (seen["vcpus"], seen.get("vcpusAskedFor", most)) == (most, number)
    assert [record.asked for record in caplog.records if record.msg == "pod.vcpus_limited"] == [most + 3]
