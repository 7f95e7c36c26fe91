# SPDX-License-Identifier: Apache-2.0
"""The warm pool of a daemon as a user has it, under both hypervisors: two VMs wait, one becomes a pod with an address
of its own, and its place is filled again. More of it, with QEMU only, is in tests/cri/test_pool_vms.py.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from tests.fakes.command import Command, finish
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist, outer_net
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

SIZE = 2


class Daemon:
    """`clearpod serve` and its client."""

    def __init__(self, command: Command) -> None:
        with (command.root / "serve.log").open("wb") as log:
            self.process = command.start("serve", stdout=log, stderr=log)
        channel = grpc.insecure_channel(f"unix:{command.root}/run/clearpod.sock")
        self._stubs = (rpc.RuntimeServiceStub(channel), rpc.ImageServiceStub(channel))
        deadline = time.monotonic() + 60 * PATIENCE
        while not any(one.type == "RuntimeReady" and one.status for one in self("Status").status.conditions):
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.1)

    def __call__(self, name: str, **fields: Any) -> Any:
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        return getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=90 * PATIENCE, wait_for_ready=True)

    def warmed(self) -> dict[str, int]:
        """The pool's counts once it is full."""
        deadline = time.monotonic() + 120 * PATIENCE
        while (counts := json.loads(self("Status", verbose=True).info["pool"]))["waiting"] != SIZE:
            assert time.monotonic() < deadline and self.process.poll() is None, counts
            time.sleep(0.2)
        return dict(counts)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[OuterNet]:
    """A bridge and leases, without rules: not every kernel that runs kvmtool has iptables."""
    if not Path(BIN_DIR, "bridge").exists():
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins")
    with outer_net(tmp_path / "host") as made:
        document = conflist(made.root)
        (bridge, _) = document["plugins"]
        made.configure({**document, "plugins": [{**bridge, "ipMasq": False}]})
        yield made


@pytest.fixture
def daemon(clearpod: Command, net: OuterNet) -> Iterator[Daemon]:
    where = f'network.conf_dir = "{net.root}/net.d"\nnetwork.bin_dirs = ["{BIN_DIR}"]\n'
    clearpod.configure(f"{where}pool.size = {SIZE}\n[vm]\nscratch_mib = 64")
    made = Daemon(clearpod)
    try:
        yield made
    finally:
        made.process.terminate()
        assert finish(made.process, limit_s=60).code == 0, (clearpod.root / "serve.log").read_text()
        (clearpod.root / "run/daemon.lock").unlink()


def test_a_vm_that_has_waited_runs_a_container_with_an_address_of_its_own(
    daemon: Daemon, tmp_path: Path, guest_dir: Path
) -> None:
    with Registry(tmp_path / "registry") as registry:
        image = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        daemon("PullImage", image=pb.ImageSpec(image=image))
    assert daemon.warmed()["booted"] == SIZE
    names = pb.PodSandboxMetadata(name="web", namespace="default", uid="u1")
    config = pb.PodSandboxConfig(metadata=names, hostname="web-0", log_directory=f"{tmp_path}/logs")
    pod = daemon("RunPodSandbox", config=config).pod_sandbox_id
    argv = {"image": pb.ImageSpec(image=image), "command": ["sleep", "1000"], "log_path": "web.log"}
    asked = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="web"), **argv)
    container = daemon("CreateContainer", pod_sandbox_id=pod, config=asked).container_id
    daemon("StartContainer", container_id=container)
    address = daemon("PodSandboxStatus", pod_sandbox_id=pod).status.network.ip
    script = "hostname; cat /etc/machine-id; ip addr show eth0; ping -c 1 -W 30 10.77.0.1"
    reply = daemon("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=60 * PATIENCE)
    output = reply.stdout.decode()
    assert reply.exit_code == 0, (output, reply.stderr)
    assert output.startswith(f"web-0\n{pod[:32]}\n") and "1 packets received" in output
    assert address.startswith("10.77.0.") and f"inet {address}/24" in output and "mtu 1400" in output
    counts = daemon.warmed()
    assert (counts["taken"], counts["missed"], counts["booted"], counts["died"]) == (1, 0, SIZE + 1, 0)
    daemon("RemovePodSandbox", pod_sandbox_id=pod)
