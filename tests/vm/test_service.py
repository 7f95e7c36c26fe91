# SPDX-License-Identifier: Apache-2.0
"""The unit of docs/ under Debian's real systemd, with a real VM: ready, hardened, reloaded, watched, ended."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.host_state import HostState
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry
from tests.fakes.systemd_machine import SystemdMachine

from .service_rig import NAME, Node, systemd_machine

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.only_on("qemu", "systemd does the same with either"),
]


@pytest.fixture
def machine(hypervisor: str, guest_dir: Path) -> Iterator[SystemdMachine]:
    with systemd_machine(hypervisor, guest_dir) as made:
        yield made


def test_the_unit_under_systemd_with_a_pod(machine: SystemdMachine, guest_dir: Path) -> None:
    root = machine.root
    machine.systemctl("start", NAME)
    assert Path(f"{root}/run/clearpod.sock").is_socket(), "it is started when it serves"
    assert machine.show(NAME, "StatusText").startswith("0 pods")
    host_state = HostState(root)
    with Registry(root / "registry") as registry:
        node = Node(root, registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1"))
        made = asyncio.run(node.start())
        vmms = host_state.vmms()
        assert len(vmms) == 1

        (root / "config.toml").write_text((root / "config.toml").read_text() + '[log]\nlevel = "debug"\n')
        machine.systemctl("reload", NAME)
        assert machine.show(NAME, "ActiveState") == "active" and "config.read" in (root / "serve.log").read_text()

        begun = time.monotonic()
        machine.systemctl("restart", NAME)
        assert time.monotonic() - begun < 12 * PATIENCE
        assert asyncio.run(node.runs(made)) and host_state.vmms() == vmms, "the VM is in a cgroup of its own"

        before = int(machine.show(NAME, "NRestarts"))
        machine.run("kill", "-STOP", machine.show(NAME, "MainPID"))
        deadline = time.monotonic() + 60 * PATIENCE
        while int(machine.show(NAME, "NRestarts")) == before or machine.show(NAME, "ActiveState") != "active":
            assert time.monotonic() < deadline, "the watchdog did not bite"
            time.sleep(0.2)
        assert asyncio.run(node.runs(made)) and host_state.vmms() == vmms
        asyncio.run(node.remove_all())
    begun = time.monotonic()
    machine.systemctl("stop", NAME)
    assert time.monotonic() - begun < 6 * PATIENCE and machine.show(NAME, "Result") == "success"
    assert host_state.vmms() == []
