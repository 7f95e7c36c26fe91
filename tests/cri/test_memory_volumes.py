# SPDX-License-Identifier: Apache-2.0
"""emptyDirs with `medium: Memory` in a real guest: a tmpfs of the guest's, which all containers of the pod share."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld
from .one_pod import Run, run
from .test_guest_volumes import ALL, KINDS, Kubelet, _mounts, _output, _pod, _restored, world

__all__ = ["hypervisor", "pytest_generate_tests", "world"]
pytestmark = pytest.mark.vm

MIB = 1 << 20


@pytest.fixture
def kubelet(world: VmWorld) -> Kubelet:
    """With 10 MiB at `memory`, as the kubelet mounts it for a pod with fsGroup 2000."""
    made = Kubelet(world.root / "kubelet", "uid-web")
    _resize(made, 10)
    os.chown(made.memory, 0, 2000)
    made.memory.chmod(0o2777)
    return made


def _resize(kubelet: Kubelet, mib: int) -> None:
    """As the kubelet does it for a pod that runs (KEP-6030)."""
    mount.mount("tmpfs", str(kubelet.memory), "tmpfs", flags=mount.MS_REMOUNT, data=f"size={mib << 20}")


async def _until(cri: Client, container: str, command: str, *, is_met: Callable[[str], bool]) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        while not is_met(await _output(cri, container, command)):
            await asyncio.sleep(0.1)


SIZE = "df -P -k /memory | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2"
WRITES = f"""
stat -f -c %T /memory; stat -c %a:%u:%g /memory; {SIZE}
if touch /fixed/x 2>/dev/null; then echo written; else echo read-only; fi
cp /bin/busybox /memory/program; chmod 755 /memory/program; if /noexec/program true; then echo runs; else echo not; fi
rm /memory/program
echo kept > /memory/kept
/probe {KINDS.format("/memory")}; /probe shared:/dev/shm/map
dd if=/dev/zero of=/memory/big bs=1M count=64 2>/dev/null; echo $(( $(stat -c %s /memory/big) >> 20 )); rm /memory/big
"""


async def test_it_is_a_tmpfs_of_its_size_that_containers_share(world: VmWorld, kubelet: Kubelet) -> None:
    subpath = kubelet.directory / "volume-subpaths/memory/sub/0"
    (kubelet.memory / "a/b").mkdir(parents=True)
    subpath.mkdir(parents=True)
    mount.bind(str(kubelet.memory / "a/b"), str(subpath))
    (kubelet.memory / "a/b").chmod(0o2777)
    memory = str(kubelet.memory)
    mounts = [
        pb.Mount(host_path=memory, container_path="/memory"),
        pb.Mount(host_path=memory, container_path="/dev/shm"),
        pb.Mount(host_path=memory, container_path="/fixed", readonly=True),
        pb.Mount(host_path=memory, container_path="/noexec", mount_options=["noexec"]),
    ]
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=True)
        one = await run(cri, pod, {"one": Run(WRITES, fields={"mounts": mounts})})
        kind, mode, size, fixed, program, *kinds, full = one["one"].out.splitlines()
        assert (kind, mode, size, fixed, program) == ("tmpfs", "2777:0:2000", "10240", "read-only", "not")
        assert kinds == [*ALL, "shared ok"] and full == "9"
        both = {
            "two": Run("cat /memory/kept", fields=_mounts(memory=kubelet.memory)),
            "sub": Run("echo deep > /sub/deep; stat -c %g /sub/deep", fields=_mounts(sub=subpath)),
        }
        seen = await run(cri, pod, both)
        assert (seen["two"].out.strip(), seen["sub"].out.strip()) == ("kept", "2000"), (
            "what has ended is seen by others"
        )
        seen = await run(cri, pod, {"three": Run("cat /memory/a/b/deep", fields=_mounts(memory=kubelet.memory))})
        assert seen["three"].out.strip() == "deep"
        assert not [path for path in kubelet.memory.rglob("*") if path.is_file()], "nothing of it is on the host"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_it_is_resized_while_it_is_used(world: VmWorld, kubelet: Kubelet) -> None:
    fields = _mounts(memory=kubelet.memory)
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=True)
        container = await cri.container(pod, "sleep", "1000", **fields)
        await cri("StartContainer", container_id=container)
        assert (
            await _output(cri, container, f"dd if=/dev/zero of=/memory/x bs=1M count=6 2>/dev/null; {SIZE}") == "10240"
        )
        _resize(kubelet, 24)
        await _until(cri, container, SIZE, is_met=lambda size: size == "24576")
        _resize(kubelet, 3)  # less than what is in it
        _resize(kubelet, 8)
        await _until(cri, container, SIZE, is_met=lambda size: size == "8192")
    _resize(kubelet, 12)
    async with world.daemon() as cri:
        await _until(cri, container, SIZE, is_met=lambda size: size == "12288")
        seen = await run(cri, pod, {"late": Run(f"{SIZE}; stat -c %s /memory/x", fields=fields)})
        assert seen["late"].out.split() == ["12288", str(6 * MIB)]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_what_is_in_it_is_counted_as_memory_of_who_wrote_it(world: VmWorld, kubelet: Kubelet) -> None:
    fields = _mounts(memory=kubelet.memory)
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=True)
        names = {}
        for name in ("writes", "reads"):
            container = names[name] = await cri.container(pod, "sleep", "1000", name=name, **fields)
            await cri("StartContainer", container_id=container)
        await _output(cri, names["writes"], "dd if=/dev/zero of=/memory/x bs=1M count=9 2>/dev/null")
        await _output(cri, names["reads"], "cat /memory/x > /dev/null")
        listed = (await cri("ListContainerStats", filter=pb.ContainerStatsFilter())).stats
        stats = {one.attributes.id: one for one in listed}
        used = {name: stats[container].memory.working_set_bytes.value for name, container in names.items()}
        assert used["writes"] > 9 * MIB > used["reads"], used
        assert stats[names["writes"]].writable_layer.used_bytes.value < MIB
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_one_that_the_host_has_files_in_stays_on_the_host_as_do_those_that_ask_for_it(
    world: VmWorld, kubelet: Kubelet
) -> None:
    fields = _mounts(memory=kubelet.memory)
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=True, emptydir="host")
        await run(cri, pod, {"one": Run("echo of the guest > /memory/written", fields=fields)})
        assert (kubelet.memory / "written").read_text() == "of the guest\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        pod = await _pod(cri, 1, plain=True)
        seen = await run(cri, pod, {"two": Run("cat /memory/written; stat -f -c '%S %b' /memory", fields=fields)})
        text, size = seen["two"].out.splitlines()
        block, blocks = map(int, size.split())
        assert (text, block * blocks) == ("of the guest", 10 * MIB), "exact, also by 9p"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


@pytest.mark.only_on("qemu", "no other can save guests")
async def test_it_is_saved_with_its_guest(world: VmWorld, kubelet: Kubelet, tmp_path: Path) -> None:
    fields = _mounts(memory=kubelet.memory)
    look = f"cat /memory/kept; {SIZE}"
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, suspend="manual", memory_mib="160")
        container = await cri.container(pod, "sleep", "1000", **fields)
        await cri("StartContainer", container_id=container)
        assert await _output(cri, container, f"echo kept > /memory/kept; {look}") == "kept\n10240"
        await cri.ours("SuspendPod", pod)
        await cri.ours("ResumePod", pod)
        assert await _output(cri, container, look) == "kept\n10240"
        output = tmp_path / "checkpoint"
        output.mkdir(0o700)
        asked = {"pod_sandbox_id": pod, "output_path": str(output), "container_ids": [container]}
        await cri("CheckpointPod", deadline_s=300, **asked)
        restored = await _restored(cri, world, output, mounts={"memory": "empty-dir"}, memory_mib="160")
        made = restored.restored_containers[0].container_id
        await cri("StartContainer", container_id=made)
        await _until(cri, made, look, is_met=lambda text: text == "kept\n1024")
        for one in (pod, restored.pod_sandbox_id):
            await cri("RemovePodSandbox", pod_sandbox_id=one)


async def test_a_pod_with_empty_directories_has_a_vm_that_waited(world: VmWorld, kubelet: Kubelet) -> None:
    """One in memory without a limit is as large as the node's memory."""
    _resize(kubelet, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB)
    fields = _mounts(memory=kubelet.memory, data=kubelet.data)
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1, limit_s=200)
        pod = await _pod(cri, 0, plain=True)
        assert (await cri.pool())["taken"] == 1
        seen = await run(cri, pod, {"one": Run("stat -f -c %T /memory; echo x > /data/x", fields=fields)})
        assert (seen["one"].out.strip(), (kubelet.data / "x").read_text()) == ("tmpfs", "x\n")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


@pytest.mark.only_on("qemu", "kvmtool has no user namespaces")
async def test_in_a_user_namespace_it_has_the_owners_that_the_host_has(world: VmWorld, kubelet: Kubelet) -> None:
    ids = pb.IDMapping(host_id=1000, container_id=0, length=100000)
    users = pb.NamespaceOption(userns_options=pb.UserNamespace(mode=pb.POD, uids=[ids], gids=[ids]))
    context = {"namespace_options": users}
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(**context))
    mounts = [pb.Mount(host_path=str(kubelet.memory), container_path="/memory", uidMappings=[ids], gidMappings=[ids])]
    script = "stat -c %a:%u:%g /memory; echo x > /memory/x; chown 33 /memory/x; stat -c %u:%g /memory/x"
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=True, linux=linux)
        seen = await run(cri, pod, {"one": Run(script, security=context, fields={"mounts": mounts})})
        assert seen["one"].out.split() == ["2777:0:2000", "33:2000"]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
