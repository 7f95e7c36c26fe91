# SPDX-License-Identifier: Apache-2.0
"""Pods with a distribution's kernel: containers, volumes, exec, modules on demand, and what is refused."""

import subprocess
from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.machine import vm_spec
from stage1.pod.model import Mount, Pod
from stage1.vm import kernels
from tests.fakes.patience import PATIENCE
from tests.vm.test_confinement import Machine, booted, machine, output_of, started

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180 * PATIENCE)]
__all__ = ["machine"]


@pytest.fixture(autouse=True)
def _built(guest_dir: Path, hypervisor: str) -> None:
    name = "vmlinux-stock" if hypervisor == "qemu" else "bzImage-stock"
    if not (guest_dir / name).exists():
        pytest.skip("needs images/build stock")


async def test_a_container_runs_execs_and_shares_files_with_the_host(machine: Machine) -> None:
    (machine.volume / "given").write_text("from the host\n")
    volume = Mount(str(machine.volume), "/data")
    async with booted(machine, kernel=kernels.STOCK) as pod:
        container = await started(pod, machine.image, volume)
        assert "amd64" in await output_of(pod, container, "uname -r")
        assert await output_of(pod, container, "cat /data/given; echo back > /data/made") == "from the host"
        assert (machine.volume / "made").read_text() == "back\n"
        assert await output_of(pod, container, "grep -c . /sys/fs/cgroup/cgroup.controllers") == "1"


@pytest.fixture
def probe(machine: Machine) -> None:
    source = Path(__file__).parents[1] / "cri/net_probe.c"
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", machine.volume / "probe", source], check=True, timeout=60)


@pytest.mark.usefixtures("probe")
async def test_the_kernel_loads_a_module_when_a_program_needs_it(machine: Machine) -> None:
    async with booted(machine, kernel=kernels.STOCK) as pod:
        container = await started(pod, machine.image, Mount(str(machine.volume), "/data"))
        script = "ls -d /sys/module/sctp; /data/probe sctp 127.0.0.1 1 1 1; ls -d /sys/module/sctp"
        assert await output_of(pod, container, f"({script}) 2>/dev/null || true") == "/sys/module/sctp"


async def test_a_pod_that_does_not_name_a_kernel_has_this_one_where_no_other_is_built(
    machine: Machine, guest_dir: Path, tmp_path: Path
) -> None:
    for path in guest_dir.iterdir():
        if not path.name.startswith(("vmlinux", "bzImage")) or path.name.endswith("-stock"):
            (tmp_path / path.name).symlink_to(path)
    async with booted(machine._replace(host=machine.host._replace(guest_dir=str(tmp_path)))) as pod:
        container = await started(pod, machine.image)
        assert "amd64" in await output_of(pod, container, "uname -r")


def test_such_a_pod_can_not_be_suspended(machine: Machine) -> None:
    pod = Pod("0" * 64, "web", memory_mib=128, vcpus=1, kernel=kernels.STOCK, suspend="on-demand")
    with pytest.raises(BadRequest, match=r"distribution's kernel.*clearpod\.io/suspend"):
        vm_spec(pod, machine.host, directory="/run/nowhere")
