# SPDX-License-Identifier: Apache-2.0
"""The systemd cgroup driver with Debian's real systemd and real VMs: a pod's VM is in a scope in the slice that the
kubelet has made for the pod. Where version 2 has controllers, as in the lab, what the slice counts and allows too.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import cgroup
from tests.cri.conftest import Client
from tests.fakes.host_state import HostState
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry
from tests.fakes.systemd_machine import SystemdMachine

from .service_rig import NAME, REPO, Node, systemd_machine

MIB = 1 << 20
ROOMY, TIGHT = "kubepods-burstable-podaa_1.slice", "kubepods-besteffort-podbb_2.slice"
PATHS = {name: f"/kubepods.slice/{name.rpartition('-')[0]}.slice/{name}" for name in (ROOMY, TIGHT)}
LIMITS = {ROOMY: "MemoryMax=1G\nCPUWeight=77\nTasksMax=1000\n", TIGHT: "MemoryMax=64M\n"}
UNITS = {name: f"[Slice]\nCPUAccounting=yes\nTasksAccounting=yes\n{text}" for name, text in LIMITS.items()}
pytestmark = [pytest.mark.vm, pytest.mark.timeout(300 * PATIENCE)]


@pytest.fixture
def machine(hypervisor: str, guest_dir: Path) -> Iterator[SystemdMachine]:
    with systemd_machine(hypervisor, guest_dir, units=UNITS, more='[host_pods]\nallow = ["network"]\n') as made:
        yield made


class Scopes:
    """What systemd and the kernel say of the pods' scopes."""

    def __init__(self, machine: SystemdMachine) -> None:
        self.machine = machine
        self.top = Path(cgroup.tree(), f"clearpod-test-{machine.root.name}")
        self.is_counted = "memory" in (self.top / "cgroup.controllers").read_text().split()

    def units(self) -> str:
        return self.machine.systemctl("list-units", "--all", "--plain", "--no-legend", "--type=scope", "clearpod-*")

    def of_process(self, pid: int) -> str:
        """Its cgroup of version 2, from the root of the machine."""
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        (path,) = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
        return path.removeprefix(f"/{self.top.name}")

    def agents(self) -> list[str]:
        """Cgroups that pods on the host have for themselves."""
        agents = [path for path in self.top.rglob("agent/cgroup.procs") if path.read_text()]
        return [f"/{path.relative_to(self.top).parents[1]}" for path in agents]

    def read(self, slice_name: str, name: str) -> str:
        return Path(f"{self.top}{PATHS[slice_name]}/{name}").read_text().strip()

    def below(self) -> list[str]:
        """Cgroups of ours that are there."""
        return [str(path) for path in self.top.rglob("clearpod-*") if path.name != NAME]


async def run(node: Node, slice_name: str, *, network: int = pb.POD) -> dict[str, Any]:
    """What a verbose status says of a new pod with that parent."""
    cri = Client(node.socket, None, node.image)  # type: ignore[arg-type]
    config = cri.sandbox(f"{slice_name}-{network}", log_directory=f"{node.root}/logs")
    config.linux.cgroup_parent = slice_name
    config.linux.security_context.namespace_options.network = network  # type: ignore[assignment]
    config.linux.resources.memory_limit_in_bytes = 64 * MIB
    pod = (await cri("RunPodSandbox", config=config, deadline_s=60 * PATIENCE)).pod_sandbox_id
    output = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
    await cri.close()
    result: dict[str, Any] = json.loads(output)
    return {**result, "id": pod}


async def driver(node: Node) -> tuple[int, tuple[str, str]]:
    """What the kubelet is told, and the answer to one that has the other driver."""
    cri = Client(node.socket, None, node.image)  # type: ignore[arg-type]
    output = (await cri("RuntimeConfig")).linux.cgroup_driver
    config = cri.sandbox("wrong")
    config.linux.cgroup_parent = "/kubepods/burstable/podaa_1"
    refused = await cri.refused("RunPodSandbox", config=config)
    assert list((await cri("ListPodSandbox")).items) == []
    await cri.close()
    return output, refused


async def is_ready(node: Node, pod: str) -> bool:
    cri = Client(node.socket, None, node.image)  # type: ignore[arg-type]
    status = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status
    await cri.close()
    return bool(status.state == pb.SANDBOX_READY)


def test_a_pod_is_a_scope_in_its_slice(machine: SystemdMachine, guest_dir: Path) -> None:
    scopes, host_state = Scopes(machine), HostState(machine.root)
    machine.systemctl("start", ROOMY, TIGHT, NAME)
    with Registry(machine.root / "registry") as registry:
        node = Node(machine.root, registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1"))
        kubelet_is_told, (code, sentence) = asyncio.run(driver(node))
        assert kubelet_is_told == pb.SYSTEMD and code == "INVALID_ARGUMENT" and "cgroup_driver" in sentence
        pod = asyncio.run(run(node, ROOMY))
        unit, (vmm,) = f"clearpod-{pod['id']}.scope", host_state.vmms()
        assert pod["vm"]["cgroupNote"] == ""
        assert scopes.of_process(vmm) == f"{PATHS[ROOMY]}/{unit}/vm"
        assert [machine.show(unit, name) for name in ("ActiveState", "Delegate", "Slice")] == ["active", "yes", ROOMY]
        if scopes.is_counted:
            see_counted(scopes)
        else:
            print("the slice's numbers are not looked at: version 2 of this host's cgroups has no controllers")

        machine.systemctl("daemon-reload")
        machine.systemctl("restart", NAME)
        assert asyncio.run(is_ready(node, pod["id"])) and scopes.of_process(vmm) == f"{PATHS[ROOMY]}/{unit}/vm"
        assert machine.show(unit, "ActiveState") == "active" and host_state.vmms() == [vmm]

        on_host = asyncio.run(run(node, ROOMY, network=pb.NODE))
        assert f"{PATHS[ROOMY]}/clearpod-{on_host['id']}.scope/vm" in scopes.agents(), "a pod on the host too"

        path = f"import sys; sys.path[0] = {str(REPO)!r}"
        raised = f"{path}; from stage1.linux import scope; scope.limit_slice({ROOMY!r}, {3 << 29})"
        done = machine.run(sys.executable, "-c", raised)
        assert done.returncode == 0 and machine.show(ROOMY, "MemoryMax") == str(3 << 29), done.stderr

        if scopes.is_counted:
            tight = asyncio.run(run(node, TIGHT))
            (other,) = [one for one in host_state.vmms() if one != vmm]
            assert "overhead.podFixed.memory" in tight["vm"]["cgroupNote"] and TIGHT in scopes.of_process(other)
            limit = scopes.read(TIGHT, "memory.max")
            machine.systemctl("daemon-reload")
            assert (
                int(limit) > 64 * MIB and machine.show(TIGHT, "MemoryMax") == scopes.read(TIGHT, "memory.max") == limit
            )
        else:
            os.kill(vmm, signal.SIGKILL)
            see_gone(scopes, unit)
        asyncio.run(node.remove_all())
    assert host_state.vmms() == [] and scopes.units() == "" and scopes.below() == []
    assert machine.show(ROOMY, "ActiveState") == "active", "that is the kubelet's to end"


def see_counted(scopes: Scopes) -> None:
    """The slice has its own limits and weight, and the VM counts there."""
    memory = int(scopes.read(ROOMY, "memory.current"))
    print(f"the slice counts {memory // MIB} MiB and {scopes.read(ROOMY, 'pids.current')} threads")
    assert 16 * MIB < memory < 512 * MIB and int(scopes.read(ROOMY, "pids.current")) > 1
    assert [scopes.read(ROOMY, name) for name in ("memory.max", "cpu.weight", "pids.max")] == [
        str(1 << 30),
        "77",
        "1000",
    ]


def see_gone(scopes: Scopes, unit: str) -> None:
    """Wait for systemd, which sees the end of a scope by itself."""
    deadline = time.monotonic() + 10 * PATIENCE
    while unit in scopes.units() or f"{scopes.top}{PATHS[ROOMY]}/{unit}" in scopes.below():
        assert time.monotonic() < deadline, (scopes.units(), scopes.below())
        time.sleep(0.05)
