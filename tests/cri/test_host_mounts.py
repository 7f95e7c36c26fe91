# SPDX-License-Identifier: Apache-2.0
"""Bidirectional propagation of privileged pods on the host, as CSI drivers want it. Needs crun and root."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb

from .conftest import Client, Registered
from .host_rig import FOREVER, NODE, HostWorld, host_world, options, out, tool

pytestmark = pytest.mark.vm
HOST_NETWORK = options(network=NODE)
PLAIN = pb.LinuxContainerConfig(security_context={"namespace_options": HOST_NETWORK})
PRIVILEGED = pb.LinuxContainerConfig(security_context={"namespace_options": HOST_NETWORK, "privileged": True})


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[HostWorld]:
    with host_world(sample, guest_dir) as made:
        allowed = made.config.host_pods.but(privileged=True)
        made.config = made.config.but(host_pods=allowed)
        yield made


async def privileged_pod(cri: Client) -> str:
    if cri.node.images.find(cri.image) is None:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
    context = pb.LinuxSandboxSecurityContext(namespace_options=HOST_NETWORK, privileged=True)
    return await cri.pod("web", linux=pb.LinuxPodSandboxConfig(security_context=context))


def mounted(place: Path) -> list[str]:
    """What the host has mounted below it."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(line[4].removeprefix(f"{place}/") for line in lines if line[4].startswith(f"{place}/"))


@pytest.mark.parametrize("end", ["RemoveContainer", "RemovePodSandbox", "killed"])
async def test_mounts_go_both_ways_and_the_hosts_stay_whatever_ends(machine: HostWorld, end: str) -> None:
    """What a CSI driver does."""
    source = machine.root / "volume"
    (source / "early").mkdir(parents=True)
    for name in ("late", "made"):
        (source / name).mkdir()
    await tool("mount", "--bind", source, source)
    await tool("mount", "--make-shared", source)
    for _ in range(2):  # one over the other
        await tool("mount", "-t", "tmpfs", "early", source / "early")
    try:
        async with machine.daemon() as cri:
            pod = await privileged_pod(cri)
            both = pb.Mount(host_path=str(source), container_path="/v", propagation=pb.PROPAGATION_BIDIRECTIONAL)
            c = await cri.container(pod, *FOREVER, linux=PRIVILEGED, mounts=[both])
            await cri("StartContainer", container_id=c)
            await out(cri, c, "mount", "-t", "tmpfs", "made", "/v/made")
            await out(cri, c, "touch", "/v/made/file")
            assert (source / "made/file").exists()
            await tool("mount", "-t", "tmpfs", "late", source / "late")
            assert (await out(cri, c, "grep", "-c", " /v/late ", "/proc/mounts")).strip() == "1"
            expected = ["early", "early", "late", "made"]
            assert mounted(source) == expected
            if end == "RemoveContainer":
                await cri("RemoveContainer", container_id=c)
            elif end == "killed":
                vm = cri.node.pods.get(pod).vm
                assert vm is not None
                os.kill(vm.pid, signal.SIGKILL)
                await cri.ended(c)
            if end != "RemovePodSandbox":
                assert mounted(source) == expected
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert mounted(source) == expected
    finally:
        await tool("umount", "-R", source)
    assert machine.left_over() == []


async def test_mounts_that_can_not_go_both_ways_are_refused(machine: HostWorld) -> None:
    source = machine.root / "volume"
    source.mkdir()
    await tool("mount", "--bind", source, source)
    await tool("mount", "--make-private", source)
    both = pb.Mount(host_path=str(source), container_path="/v", propagation=pb.PROPAGATION_BIDIRECTIONAL)
    try:
        async with machine.daemon() as cri:
            pod = await privileged_pod(cri)
            for linux, sentence in ((PRIVILEGED, "not shared"), (PLAIN, "in a privileged container only")):
                config = cri.config("true", mounts=[both], linux=linux)
                code, output = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
                assert code == "INVALID_ARGUMENT" and sentence in output
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    finally:
        await tool("umount", source)
    assert machine.left_over() == []
