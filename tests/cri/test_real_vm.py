# SPDX-License-Identifier: Apache-2.0
"""What only a real guest can show: its kernel's OOM killer, and `clearpod serve` killed under a real VM."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.linux import cgroup
from tests.fakes import preloaded

from .conftest import Registered, VmWorld, vm_world
from .kept_pod import empty_pod, kept_vms, running_in_kept_pod
from .test_recovery import _client, _numbers

__all__ = ["kept_vms"]

pytestmark = pytest.mark.vm


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with vm_world(sample, guest_dir) as made:
        yield made


async def test_the_guests_oom_killer_is_reported(kept_vms: VmWorld) -> None:
    limit = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    async with kept_vms.daemon() as cri:
        hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
        limited = pb.LinuxContainerConfig(resources=limit)
        c = await running_in_kept_pod(cri, kept_vms, *hog, linux=limited)
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (137, "OOMKilled")


ODD = b"\xff\x80 \xc3=\n\xed\xa0\x80\xc3\xa9"
"""No UTF-8, in each of the ways in which it can't be, and some that is."""
HEX = f"test $(printf %s \"$A\" | od -An -tx1 -v | tr -d ' \\n') = {ODD.hex()}"


async def test_a_variable_that_is_no_utf8_is_kept_to_the_byte(kept_vms: VmWorld) -> None:
    async with kept_vms.daemon() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=kept_vms.image))
        pod = await empty_pod(cri) or await cri.pod()
        c = await cri.container(
            pod, "sh", "-c", f"{HEX} && sleep 1000", envs=[pb.KeyValue(key="A", value=ODD)], tty=True
        )
        weight = pb.LinuxContainerResources(cpu_shares=200)
        await cri("UpdateContainerResources", container_id=c, linux=weight)
        await cri("StartContainer", container_id=c)
        assert (await cri("ExecSync", container_id=c, cmd=["sh", "-c", HEX], timeout=60)).exit_code == 0
        await cri("UpdateContainerResources", container_id=c, linux=weight)
        shown = (await cri("ContainerStatus", container_id=c, verbose=True)).info["info"]
        assert "A=\ufffd" in "".join(json.loads(shown)["runtimeSpec"]["process"]["env"])
        assert (await cri.status(c)).state == pb.CONTAINER_RUNNING
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert kept_vms.left_over() == []


@contextmanager
def _serve(machine: VmWorld, guest_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    config = machine.root / "config.toml"
    config.write_text(
        f'run_dir = "{machine.config.run_dir}"\nstate_dir = "{machine.config.state_dir}"\n'
        f'[guest]\ndir = "{guest_dir}"\n[vm]\nhypervisor = "qemu"\nscratch_mib = 64\n'
        f'[network]\ndefault = false\nconf_dir = "{machine.root}/net.d"\n'
    )
    log = (machine.root / "serve.log").open("ab")
    argv = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
    process = preloaded.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    log.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_vmm_is_in_a_cgroup_of_its_own_which_goes_with_it(machine: VmWorld, guest_dir: Path) -> None:
    if not (top := cgroup.tree()):
        pytest.skip("needs cgroup v2 on this machine")
    with _serve(machine, guest_dir):
        cri = await _client(machine)
        pod = await cri.pod()
        vmm = engine.find_vm(f"{machine.config.run_dir}/pods/{pod}")
        assert vmm is not None
        assert f"0::/{cgroup.OURS}/clearpod-{pod}\n" in Path(f"/proc/{vmm.pid}/cgroup").read_text()
        place = Path(top, cgroup.OURS, f"clearpod-{pod}")
        assert place.is_dir()
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert not place.exists()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()


async def test_serve_is_killed_under_a_real_vm_and_no_output_is_lost_or_doubled(
    machine: VmWorld, guest_dir: Path
) -> None:
    with _serve(machine, guest_dir):
        cri = await _client(machine)
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; exit 3"
        c = await cri.container(pod, "sh", "-c", script)
        await cri("StartContainer", container_id=c)
        await cri.close()
    for _ in range(3):
        with _serve(machine, guest_dir):
            cri = await _client(machine)
            await cri.status(c)
            await cri.close()
    with _serve(machine, guest_dir):
        cri = await _client(machine)
        status = await cri.ended(c, limit_s=60)
        assert status.exit_code == 3
        assert _numbers(status.log_path) == list(range(1, 20001))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()


@pytest.mark.parametrize(("key", "value"), [("net.ipv4.nosuch", "1"), ("kernel.shm_rmid_forced", "many")])
async def test_a_sysctl_that_the_guest_does_not_have_is_the_clients_mistake(
    machine: VmWorld, key: str, value: str
) -> None:
    async with machine.daemon() as cri:
        linux = pb.LinuxPodSandboxConfig(sysctls={key: value})
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(linux=linux))
        assert (code, key in sentence) == ("INVALID_ARGUMENT", True)
