# SPDX-License-Identifier: Apache-2.0
"""The unit of docs/ under Debian's real systemd, with a real VM: ready, hardened, reloaded, watched, ended."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client
from tests.fakes.leavings import Leavings
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry
from tests.fakes.systemd_machine import SystemdMachine, why_not

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.only_on("qemu", "systemd does the same with either"),
]
REPO = Path(__file__).parents[2]
UNIT = (REPO / "docs/clearpod.service").read_text(encoding="utf-8")
MORE = """[Service]
ExecStart=
ExecStart={python} -m cri serve --config {root}/config.toml
WorkingDirectory={repo}
WatchdogSec={watchdog_s}
StandardOutput=append:{root}/serve.log
StandardError=append:{root}/serve.log
"""
NAME = "clearpod.service"


@pytest.fixture
def machine(hypervisor: str, guest_dir: Path) -> Iterator[SystemdMachine]:
    if lacks := why_not():
        pytest.skip(f"systemd can't be PID 1 of namespaces here: it {lacks}")
    with tempfile.TemporaryDirectory(prefix="cp", dir="/tmp") as place:
        root = Path(place)
        text = f'run_dir = "{root}/run"\nstate_dir = "{root}/state"\n[guest]\ndir = "{guest_dir}"\n[vm]\nhypervisor = '
        text += f'"{hypervisor}"\nscratch_mib = 64\nboot_timeout_s = {60 * PATIENCE}\n[network]\ndefault = false\n'
        (root / "config.toml").write_text(f'{text}conf_dir = "{root}/none"\n')
        more = MORE.format(python=sys.executable, root=root, repo=REPO, watchdog_s=5 * PATIENCE)
        with SystemdMachine(root, {NAME: UNIT, f"{NAME}.d/test.conf": more}) as made:
            yield made


class Node:
    """A client of the daemon in there, through the socket in its directory."""

    def __init__(self, root: Path, image: str) -> None:
        self.socket, self.image, self.root = f"{root}/run/clearpod.sock", image, root

    async def start(self) -> str:
        """Pull the image, run a pod and a container in it that counts; the container's id."""
        cri = Client(self.socket, None, self.image)  # type: ignore[arg-type]
        await cri("PullImage", image=pb.ImageSpec(image=self.image), deadline_s=60)
        pod = await cri.pod(log_directory=f"{self.root}/logs")
        made = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.2; done")
        await cri("StartContainer", container_id=made)
        assert (await cri("ExecSync", container_id=made, cmd=["echo", "hi"])).stdout == b"hi\n"
        await cri.close()
        return made

    async def runs(self, container: str) -> bool:
        """Whether it does, and answers."""
        cri = Client(self.socket, None, self.image)  # type: ignore[arg-type]
        status = await cri.status(container)
        said = (await cri("ExecSync", container_id=container, cmd=["echo", "hi"])).stdout
        await cri.close()
        return bool(status.state == pb.CONTAINER_RUNNING) and said == b"hi\n"

    async def remove_all(self) -> None:
        cri = Client(self.socket, None, self.image)  # type: ignore[arg-type]
        for one in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
        await cri.close()


def test_the_unit_under_systemd_with_a_pod(machine: SystemdMachine, guest_dir: Path) -> None:
    root = machine.root
    machine.systemctl("start", NAME)
    assert Path(f"{root}/run/clearpod.sock").is_socket(), "it is started when it serves"
    assert machine.show(NAME, "StatusText").startswith("0 pods")
    leavings = Leavings(root)
    with Registry(root / "registry") as registry:
        node = Node(root, registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1"))
        made = asyncio.run(node.start())
        vmms = leavings.vmms()
        assert len(vmms) == 1

        (root / "config.toml").write_text((root / "config.toml").read_text() + '[log]\nlevel = "debug"\n')
        machine.systemctl("reload", NAME)
        assert machine.show(NAME, "ActiveState") == "active" and "config.read" in (root / "serve.log").read_text()

        begun = time.monotonic()
        machine.systemctl("restart", NAME)
        assert time.monotonic() - begun < 12 * PATIENCE
        assert asyncio.run(node.runs(made)) and leavings.vmms() == vmms, "the VM is in a cgroup of its own"

        before = int(machine.show(NAME, "NRestarts"))
        machine.run("kill", "-STOP", machine.show(NAME, "MainPID"))
        deadline = time.monotonic() + 60 * PATIENCE
        while int(machine.show(NAME, "NRestarts")) == before or machine.show(NAME, "ActiveState") != "active":
            assert time.monotonic() < deadline, "the watchdog did not bite"
            time.sleep(0.2)
        assert asyncio.run(node.runs(made)) and leavings.vmms() == vmms
        asyncio.run(node.remove_all())
    begun = time.monotonic()
    machine.systemctl("stop", NAME)
    assert time.monotonic() - begun < 6 * PATIENCE and machine.show(NAME, "Result") == "success"
    assert leavings.vmms() == []
