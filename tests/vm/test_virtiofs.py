# SPDX-License-Identifier: Apache-2.0
"""Volumes that come by virtiofsd: what files do there, what the process is, and that it ends with its VM and that one
with it.
"""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cri.live.pod import LivePod
from stage1.linux import idmap
from stage1.pod.model import Mount
from stage1.vm import volume_server
from tests.fakes.patience import PATIENCE
from tests.vm.test_confinement import Machine, booted, machine, output_of, pid_of, started
from tests.vm.test_system_calls import with_probe

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120 * PATIENCE)]

__all__ = ["machine", "with_probe"]
FEW = f"{0b11011011:016x}"
"""As the VMM's, and CAP_SETGID 6 and CAP_SETUID 7; what it could get back it has given up."""


@pytest.fixture(autouse=True)
def _virtiofsd(hypervisor: str) -> None:
    if hypervisor != "qemu":
        pytest.skip("kvmtool has no vhost-user")
    if lack := volume_server.find().lack:
        pytest.skip(f"{lack}: apt install virtiofsd")


@pytest.fixture
def volume(machine: Machine, with_probe: Mount) -> Mount:
    """With both programs of the tests, and a file of somebody's."""
    kinds = Path(__file__).parents[1] / "cri/probe.c"
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", machine.volume / "kinds", kinds], check=True, timeout=60)
    (machine.volume / "of-1000").write_text("x")
    os.chown(machine.volume / "of-1000", 1000, 1000)
    return with_probe


def _server(pod: LivePod) -> int:
    assert pod.vm is not None and pod.vm.server
    return pod.vm.server[0]


async def test_files_of_volumes_can_be_used_and_mapped(machine: Machine, volume: Mount) -> None:
    async with booted(machine, has_virtiofs=True) as pod:
        container = await started(pod, machine.image, volume)
        assert "virtiofs" in await output_of(pod, container, "grep ' /data ' /proc/mounts")
        assert await output_of(pod, container, "cd /data/work && /data/probe maps") == "all done"
        kinds = "shared:/data/m lock:/data/m told:/data allocate:/data/m"
        results = (await output_of(pod, container, f"/data/kinds {kinds}")).splitlines()
        assert results == ["shared ok", "lock ok", "told ok", "allocate ok"]
        assert await output_of(pod, container, "ls -ln /data/of-1000 | cut -c-40 | tr -s ' ' | cut -d' ' -f3,4") == (
            "1000 1000"
        )
        await output_of(pod, container, "echo guest >/data/made; chown 7:8 /data/made; mkfifo /data/fifo")
        made = machine.volume / "made"
        assert (made.read_text(), made.stat().st_uid, made.stat().st_gid) == ("guest\n", 7, 8)
        made.write_text("the host's\n")
        assert await output_of(pod, container, "sleep 1.1; cat /data/made") == "the host's"
        _is_confined(pod)
        server = _server(pod)
        for name in ("made", "of-1000", "fifo"):
            (machine.volume / name).unlink()
    assert not Path(f"/proc/{server}").exists(), "it ends with its VM"


def _is_confined(pod: LivePod) -> None:
    server, vmm = Path(f"/proc/{_server(pod)}"), Path(f"/proc/{pid_of(pod)}")
    assert os.path.basename(os.readlink(server / "exe")) == "virtiofsd"
    for kind in ("pid", "ipc", "uts", "user", "cgroup"):
        assert os.readlink(server / "ns" / kind) == os.readlink(vmm / "ns" / kind)
    assert os.readlink(server / "ns/mnt") not in (os.readlink("/proc/self/ns/mnt"), os.readlink(vmm / "ns/mnt"))
    assert os.readlink(server / "ns/net") not in (os.readlink("/proc/self/ns/net"), os.readlink(vmm / "ns/net"))
    assert (server / "cgroup").read_text() == (vmm / "cgroup").read_text()
    status = dict(line.split(":\t", 1) for line in (server / "status").read_text().splitlines())
    needed = {"NoNewPrivs": "1", "Seccomp": "2", "CapBnd": "0" * 16, "CapEff": FEW, "CapPrm": FEW}
    assert {name: status[name].strip() for name in needed} == needed
    assert int(status["Uid"].split()[0]) == idmap.outside(idmap.read_map(pid_of(pod)), 0)


async def test_who_writes_to_a_file_takes_its_privilege_away(machine: Machine, volume: Mount) -> None:
    privileged = machine.volume / "privileged"
    privileged.write_text("x")
    privileged.chmod(0o6777)
    async with booted(machine, has_virtiofs=True) as pod:
        container = await started(pod, machine.image, volume, uid=1000)
        assert await output_of(pod, container, "stat -c %a /data/privileged") == "6777"
        modes = await output_of(pod, container, "echo y >>/data/privileged; stat -c %a /data/privileged")
        assert (modes, privileged.stat().st_mode & 0o7777) == ("777", 0o777)
    privileged.unlink()


async def test_a_vm_whose_server_was_killed_ends(machine: Machine) -> None:
    async with booted(machine, has_virtiofs=True) as pod:
        os.kill(_server(pod), signal.SIGKILL)
        async with asyncio.timeout(20 * PATIENCE):
            await pod.gone.wait()
        assert pod.status.why
