# SPDX-License-Identifier: Apache-2.0
"""A pod that boots a bzImage with an initrd out of its image, through the CRI, on both hypervisors: kvmtool where there
is KVM, as in the lab. The kernel is the one of our guests, and nothing of ours runs in it.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from tests.cri.conftest import Registered, VmWorld, vm_world
from tests.cri.test_own_kernels import _log, _started, _until_logged
from tests.fakes import kernels
from tests.fakes.far_host import run_here
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests
from tests.fakes.outer_net import outer_net
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

__all__ = ["hypervisor", "pytest_generate_tests"]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]
INIT = (
    kernels.INIT.partition(b"mkfifo")[0]
    + b"""cat /proc/cmdline
xargs -0 -n1 echo was < /proc/1/environ
ls -d /.clearpod; echo "that is all"
exec sleep 1000000
"""
)
"""Its network and a web server, its environment, and no end."""


@pytest.fixture
def world(hypervisor: str, tmp_path: Path, guest_dir: Path) -> Iterator[VmWorld]:
    """With the image t/plain:1, in a netns that stands for the host."""
    labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine="q35")
    with Registry(tmp_path / "registry") as registry:
        files = kernels.plain_files(guest_dir, init=INIT)
        registered = Registered(
            kernels.push(registry, tmp_path, "t/plain:1", files=files, labels=labels), f"{tmp_path}/s"
        )
        store = ImageStore(registered.state_dir)
        pull_blocking(store, registered.reference, config=Config())
        store.close()
        with outer_net(tmp_path / "outer") as net, vm_world(registered, guest_dir, hypervisor=hypervisor) as made:
            net.use_default()
            made.host = made.host._replace(network=net.settings)
            yield made


async def test_it_takes_the_guests_place_answers_is_counted_and_is_stopped(world: VmWorld) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs", annotations={policy.MEMORY: "128"})
        c = await _started(cri, pod, cri.image, "word=given")
        await _until_logged(cri, c, "a kernel of Linux is ready")
        ip = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network.ip
        await asyncio.to_thread(run_here, "busybox", "ping", "-c", "2", "-W", "60", ip)
        fetch = ("busybox", "wget", "-q", "-O", "-", f"http://{ip}/f")
        assert await asyncio.to_thread(run_here, *fetch) == "from the kernel\n"
        stats = (await cri("ContainerStats", container_id=c)).stats
        assert stats.memory.usage_bytes.value > 0
        assert stats.cpu.usage_core_nano_seconds.value > 0
        assert (await cri.refused("ExecSync", container_id=c, cmd=["true"]))[0] == "UNIMPLEMENTED"
        await cri("StopContainer", container_id=c, timeout=1)
        status = await cri.status(c)
        assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
        assert any("word=given" in line for line in _log(status.log_path))
        again = await _started(cri, pod, cri.image, name="again")
        await _until_logged(cri, again, "a kernel of Linux is ready")
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_an_environment_that_no_command_line_can_have_comes_by_the_initrd(world: VmWorld) -> None:
    given = {f"NUMBER_{number}": f'the "value" of {number}' for number in range(60)}
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs", annotations={policy.MEMORY: "128"})
        for name in ("first", "again"):
            envs = [pb.KeyValue(key=key, value=text.encode()) for key, text in given.items()]
            c = await _started(cri, pod, cri.image, "word=given", name=name, envs=envs)
            await _until_logged(cri, c, "that is all")
            answer = await cri("ContainerStatus", container_id=c, verbose=True)
            assert json.loads(answer.info["info"])["kernel"]["environmentBy"] == "initrd"
            lines = [line.rstrip("\r") for line in _log(answer.status.log_path)]
            assert {f"was {key}={text}" for key, text in given.items()} <= set(lines), lines
            assert [line for line in lines if "word=given" in line and "rdinit=/.clearpod/init" in line]
            assert "/.clearpod" not in lines
            await cri("StopContainer", container_id=c, timeout=1)
        scratch = Path(world.host.state_dir, "scratch")
        assert f"{pod}.initrd" in [one.name for one in scratch.iterdir()]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert (list(scratch.glob("*.initrd")), world.left_over()) == ([], [])
