# SPDX-License-Identifier: Apache-2.0
"""New limits as an operator sees them: the real crictl's `update`, and a pod's new sums as kubelet's in-place resize
sends them. What changed is read in the guest, by a privileged container, which sees the cgroups of all.
"""

import json
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

from .test_crictl import Crictl, _container, crictl

__all__ = ["crictl"]
pytestmark = [pytest.mark.vm, pytest.mark.crictl, pytest.mark.timeout(240)]

MIB = 1 << 20
GROUP = "/sys/fs/cgroup/clearpod"
FILL = "dd if=/dev/zero of=/dev/shm/$HOSTNAME$$ bs=1M count=4 2>/dev/null; exec sleep 1000"
CHANGES: list[tuple[str, str, str]] = [
    (f"--memory {64 * MIB}", f"{64 * MIB}", "20000 100000"),
    ("--cpu-quota 30000", f"{64 * MIB}", "30000 100000"),
    ("--cpu-period 50000 --cpu-share 2048", f"{64 * MIB}", "30000 50000"),
    ("--cpu-quota=-1 --memory=-1", "max", "max 50000"),
    (f"--memory {40 * MIB} --cpu-quota 10000 --cpuset-cpus 0", f"{40 * MIB}", "10000 50000"),
]
REFUSED = [
    (f"--memory {256 << 10}", "InvalidArgument", "memory_limit_in_bytes"),
    (f"--memory {MIB} --cpu-quota 5000", "FailedPrecondition", "nothing was changed"),
    ("--cpu-quota 5", "InvalidArgument", "cpu_quota must be between"),
    ("--cpu-period 1", "InvalidArgument", "cpu_period must be between"),
    ("--cpu-share 1000000", "InvalidArgument", "cpu_shares"),
    ("--cpuset-cpus 0-9999", "InvalidArgument", "the last processor of this host is"),
]
SUMS_REFUSED = [
    ({"memory_limit_in_bytes": 2 * MIB, "cpu_quota": 9000}, grpc.StatusCode.FAILED_PRECONDITION, "nothing was changed"),
    ({"memory_limit_in_bytes": 900 * MIB}, grpc.StatusCode.RESOURCE_EXHAUSTED, "can't grow to 1028 MiB"),
]
HOG = ("dd", "if=/dev/zero", "of=/dev/null", "bs=70M", "count=1")
"""Takes more memory than a worker may have in the beginning."""
ONLINE = "/sys/devices/system/cpu/online"


class Node:
    """A pod with a container `worker`, which is limited, and `looker`, which sees what the guest's kernel has."""

    def __init__(self, crictl: Crictl, image: str) -> None:
        self.crictl = crictl
        sums = {"memory_limit_in_bytes": 64 * MIB, "cpu_quota": 100000, "cpu_period": 100000}
        pod = {
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "attempt": 0},
            "log_directory": f"{crictl.root}/logs",
            "linux": {"resources": sums, "security_context": {"privileged": True}},
        }
        self._file = crictl.file("pod.json", pod)
        self.pod = crictl("runp", self._file)
        limits = {"memory_limit_in_bytes": 48 * MIB, "cpu_quota": 20000, "cpu_period": 100000, "cpu_shares": 512}
        self.worker = self._start(image, "worker", {"resources": limits})
        self.looker = self._start(image, "looker", {"security_context": {"privileged": True}})

    def _start(self, image: str, name: str, linux: dict[str, Any]) -> str:
        document = json.loads(Path(_container(self.crictl, image, name, FILL)).read_text(encoding="utf-8"))
        path = self.crictl.file(f"{name}.json", document | {"linux": linux})
        made = self.crictl("create", self.pod, path, self._file)
        self.crictl("start", made)
        return made

    def has(self, *files: str, of: str = "") -> list[str]:
        """What is in these files of the container's cgroup, or of the one around all containers."""
        return self.crictl("exec", "-s", self.looker, "cat", *(f"{GROUP}/{of}/{file}" for file in files)).splitlines()

    def online(self) -> str:
        """The guest's processors."""
        return str(self.crictl("exec", "-s", self.looker, "cat", ONLINE))

    def says(self, container: str) -> Any:
        """The limits that crictl shows."""
        return self.crictl.json("inspect", container)["status"]["resources"]["linux"]


@pytest.fixture
def node(crictl: Crictl, tmp_path: Path, guest_dir: Path) -> Node:
    with Registry(tmp_path / "registry") as registry:
        image = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        crictl("pull", image)
    return Node(crictl, image)


def test_crictl_update_changes_the_guest_or_nothing(node: Node) -> None:
    weight = int(node.has("cpu.weight", of=node.worker)[0])
    for options, memory, cpu in CHANGES:
        node.crictl("update", *options.split(), node.worker)
        assert node.has("memory.max", "cpu.max", of=node.worker) == [memory, cpu], options
    assert int(node.has("cpu.weight", of=node.worker)[0]) > weight
    files = ("memory.max", "cpu.max", "cpu.weight", "cpuset.cpus")
    had, output = node.has(*files, of=node.worker), node.says(node.worker)
    assert (output["memoryLimitInBytes"], output["cpuQuota"], output["cpuShares"]) == (f"{40 * MIB}", "10000", "2048")
    for options, code, sentence in REFUSED:
        ended = node.crictl.ends("update", *options.split(), node.worker)
        assert ended.returncode == 1 and f"code = {code}" in ended.stderr and sentence in ended.stderr, (options, ended)
        assert node.has(*files, of=node.worker) == had and node.says(node.worker) == output, options
    assert node.has("memory.max", of=node.looker) == ["max"]


def test_a_pod_is_resized_in_place_or_not_at_all(node: Node) -> None:
    with grpc.insecure_channel(f"unix://{node.crictl.root}/run/clearpod.sock") as channel:
        update = rpc.RuntimeServiceStub(channel).UpdatePodSandboxResources

        def resize(**sums: int) -> None:
            resources = pb.LinuxContainerResources(**sums)
            request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=node.pod, resources=resources)
            update(request, timeout=60 * PATIENCE)

        resize(memory_limit_in_bytes=32 * MIB, cpu_quota=25000, cpu_period=100000)
        assert node.has("memory.max", "cpu.max") == [f"{32 * MIB}", "25000 100000"]
        for sums, code, sentence in SUMS_REFUSED:
            with pytest.raises(grpc.RpcError) as refused:
                resize(**sums)
            assert refused.value.code() == code and sentence in refused.value.details(), refused.value.details()
            assert node.has("memory.max", "cpu.max") == [f"{32 * MIB}", "25000 100000"], sums
        resize(memory_limit_in_bytes=64 * MIB, cpu_quota=-1)
        assert node.has("memory.max", "cpu.max") == [f"{64 * MIB}", "max 100000"]
        assert node.has("memory.max", of=node.worker) == [f"{48 * MIB}"], "a container's own limits are its own"
        assert node.crictl.ends("exec", "-s", node.worker, *HOG).returncode != 0
        resize(memory_limit_in_bytes=128 * MIB)
        node.crictl("update", "--memory", f"{120 * MIB}", node.worker)
        assert node.has("memory.max", of=node.worker) == [f"{120 * MIB}"]
        assert node.crictl.ends("exec", "-s", node.worker, *HOG).returncode == 0, "it has grown"
        node.crictl("update", "--memory", f"{40 * MIB}", node.worker)
        resize(memory_limit_in_bytes=56 * MIB)
        assert node.has("memory.max") == [f"{56 * MIB}"] and node.has("memory.max", of=node.worker) == [f"{40 * MIB}"]
        if (os.cpu_count() or 1) > 1:
            result = [node.online()]
            for quota in (100000, 150000, 50000):
                resize(cpu_quota=quota, cpu_period=100000)
                result.append(node.online())
            assert result == ["0-1", "0", "0-1", "0"], "vCPUs come and go with the quota"
