# SPDX-License-Identifier: Apache-2.0
"""Volumes that a real guest has itself: emptyDirs on its disk, which outlive its VM, and copies of config maps.

The directories are as the kubelet makes them. On both hypervisors: kvmtool where there is KVM, as in the lab.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.config import parse
from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld
from .one_pod import Run, machine, run
from .test_own_kernels import _until_logged

__all__ = ["hypervisor", "pytest_generate_tests"]
pytestmark = pytest.mark.vm

GUEST = {"clearpod.io/emptydir": "guest", "clearpod.io/files": "guest"}


KINDS = "shared:{0}/m lock:{0}/m told:{0} unnamed:{0} allocate:{0}/m"
ALL = ["shared ok", "lock ok", "told ok", "unnamed ok", "allocate ok"]
"""What files can be used for, where the guest has them itself."""


class Kubelet:
    """Its directory of one pod, with an emptyDir of group 2000, one in memory, and a config map."""

    def __init__(self, root: Path, uid: str) -> None:
        self.directory = root / "pods" / uid
        self.data = self._volume("empty-dir", "data")
        self.data.chmod(0o2777)
        os.chown(self.data, 0, 2000)
        self.memory = self._volume("empty-dir", "memory")
        mount.mount("tmpfs", str(self.memory), "tmpfs", data="size=1m,mode=1777")
        self.map = self._volume("configmap", "map")
        self.write(key="one", old="old")
        self.hosts = self.directory / "etc-hosts"
        self.hosts.write_text("10.0.0.9 of-the-kubelet\n")
        self.subpath = self.directory / "volume-subpaths/data/sub/0"

    def _volume(self, kind: str, name: str) -> Path:
        path = self.directory / f"volumes/kubernetes.io~{kind}" / name
        path.mkdir(parents=True)
        return path

    def write(self, **files: str) -> None:
        """A new version of the config map, as the kubelet's AtomicWriter brings it."""
        version = f"..{len(list(self.map.iterdir()))}"
        (self.map / version).mkdir()
        for name, text in files.items():
            (self.map / version / name).write_text(text)
            if not (self.map / name).is_symlink():
                (self.map / name).symlink_to(f"..data/{name}")
        (self.map / "..data_tmp").symlink_to(version)
        (self.map / "..data_tmp").rename(self.map / "..data")
        for path in list(self.map.iterdir()):
            if path.name[:2] != ".." and path.name not in files:
                path.unlink()

    def bind_subpath(self) -> None:
        """What a container with `subPath: a/b` gets."""
        (self.data / "a/b").mkdir(parents=True)
        self.subpath.mkdir(parents=True)
        mount.bind(str(self.data / "a/b"), str(self.subpath))


@pytest.fixture
def world(hypervisor: str, tmp_path: Path, guest_dir: Path) -> Iterator[VmWorld]:
    with machine(tmp_path, guest_dir, hypervisor=hypervisor) as made:
        tables = parse(f'[volumes]\nkubelet_root = "{made.root}/kubelet"\n').volumes
        made.config = made.config.but(volumes=tables)
        try:
            yield made
        finally:
            for point in mount.mounts_below(f"{made.root}/kubelet"):
                mount.umount(point, lazy=True)


def _mounts(**places: Path) -> dict[str, object]:
    return {"mounts": [pb.Mount(host_path=str(path), container_path=f"/{name}") for name, path in places.items()]}


async def _pod(
    cri: Client, attempt: int, *, plain: bool = False, linux: pb.LinuxPodSandboxConfig | None = None, **more: str
) -> str:
    """With all that it can have in its guest, unless it is `plain`."""
    given = {f"clearpod.io/{key.replace('_', '-')}": value for key, value in more.items()}
    annotations = given if plain else GUEST | given
    names = pb.PodSandboxMetadata(name="web", namespace="default", uid="uid-web", attempt=attempt)
    if cri.node.images.find(cri.image) is None:
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
    logs = f"{cri.node.config.run_dir}/logs"
    return await cri.pod("web", metadata=names, annotations=annotations, log_directory=logs, linux=linux)


async def _output(cri: Client, container: str, command: str) -> str:
    ran = await cri("ExecSync", container_id=container, cmd=["sh", "-c", command], timeout=60)
    assert not ran.exit_code, ran
    return str(ran.stdout.decode().strip())


def _on_disk(disk: Path) -> set[str]:
    """What is at the top of the file system."""
    listed = subprocess.run(["debugfs", "-R", "ls -p /", disk], capture_output=True, text=True, check=True).stdout
    return {line.split("/")[5] for line in listed.split()}


async def test_an_empty_directory_is_on_the_pods_disk_and_outlives_its_vm(world: VmWorld) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    async with world.daemon() as cri:
        first = await _pod(cri, 0)
        fields = _mounts(data=kubelet.data, memory=kubelet.memory)
        writes = "stat -c %a:%g /data; echo kept > /data/kept; sync; echo x > /memory/x; /probe " + KINDS.format(
            "/data"
        )
        seen = await run(cri, first, {"one": Run(writes, fields=fields)})
        mode, *kinds = seen["one"].out.splitlines()
        assert (mode, kinds) == ("2777:2000", ALL)
        kubelet.bind_subpath()
        again = {
            "two": Run("cat /data/kept", fields=fields),
            "sub": Run("echo deep > /sub/deep; stat -c %g /sub/deep", fields=_mounts(sub=kubelet.subpath)),
        }
        seen = await run(cri, first, again)
        assert (seen["two"].out.strip(), seen["sub"].out.strip()) == ("kept", "2000")
        assert [path.name for path in kubelet.data.rglob("*")] == ["a", "b"], "nothing of it is on the host"
        assert not (kubelet.memory / "x").exists()

        names = pb.PodSandboxMetadata(name="web", namespace="default", uid="uid-web", attempt=1)
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox(metadata=names, annotations=GUEST))
        assert code == "FAILED_PRECONDITION" and "disk" in text
        await cri("StopPodSandbox", pod_sandbox_id=first)
        await cri("RemovePodSandbox", pod_sandbox_id=first)

        second = await _pod(cri, 2)
        seen = await run(cri, second, {"three": Run("cat /data/kept /data/a/b/deep", fields=fields)})
        assert seen["three"].out.split() == ["kept", "deep"]
        await cri("RemovePodSandbox", pod_sandbox_id=second)
    left = _on_disk(kubelet.directory / "clearpod/disk.img")
    assert left <= {".", "..", "lost+found", "volumes"}, "containers of the VM before have left nothing"


async def _writable(cri: Client, containers: list[str]) -> list[int]:
    """The sizes of writable layers, in MiB."""
    listed = (await cri("ListContainerStats", filter=pb.ContainerStatsFilter())).stats
    used = {one.attributes.id: one.writable_layer.used_bytes.value for one in listed}
    return [used[one] >> 20 for one in containers]


WRITE = "dd if=/dev/zero of=/{0}/big bs=1M count=40 2>/dev/null; echo KEY=value > /{0}/env; sync; stat -f -c %T /{0}"


@pytest.mark.parametrize("is_on_disk", [False, True])
async def test_what_is_in_an_empty_directory_is_no_containers_writable_layer(world: VmWorld, is_on_disk: bool) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=not is_on_disk)
        fields = _mounts(data=kubelet.data)
        made = [await cri.container(pod, "sleep", "1000", name=name, **fields) for name in ("small", "other")]
        for one in made:
            await cri("StartContainer", container_id=one)
        kind = await _output(cri, made[1], WRITE.format("data"))
        await _output(cri, made[1], "dd if=/dev/zero of=/own bs=1M count=5 2>/dev/null; sync")
        async with asyncio.timeout(20 * PATIENCE):
            while await _writable(cri, made) != [0, 5]:  # their files are counted once in ten seconds
                await asyncio.sleep(0.2)
        counted = sum(path.stat().st_blocks * 512 for path in kubelet.data.iterdir())
        if is_on_disk:
            assert kind == "ext2/ext3" and not counted and not (kubelet.data / "env").exists()
        else:  # the kubelet reads it there, as for `fileKeyRef`, and counts it for `sizeLimit`
            assert (kubelet.data / "env").read_text() == "KEY=value\n" and counted >= 40 << 20
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


FILL = """
stat -c %a:%g /data; ls -A /data
dd if=/dev/zero of=/data/big bs=1M count=64 2>/dev/null; stat -c %s /data/big
df -P -k /data | tail -n 1
echo other > /other/file; dd if=/dev/zero of=/other/more bs=1M count=24 2>/dev/null; stat -c %s /other/more
"""


async def test_a_limited_one_is_full_by_itself_and_outlives_its_vm_with_what_it_holds(world: VmWorld) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    other = kubelet._volume("empty-dir", "other")
    fields = _mounts(data=kubelet.data, other=other)
    async with world.daemon() as cri:
        code, text = await cri.refused(
            "RunPodSandbox",
            config=cri.sandbox(
                metadata=pb.PodSandboxMetadata(name="web", namespace="default", uid="uid-web"),
                annotations=GUEST | {"clearpod.io/emptydir-limits": "data=900Mi"},
            ),
        )
        assert code == "INVALID_ARGUMENT" and "data" in text and "scratch-mib" in text
        first = await _pod(cri, 0, emptydir_limits="data=16Mi")
        seen = await run(cri, first, {"one": Run(FILL, fields=fields), "two": Run("cat /data/x; true", fields=fields)})
        mode, size, df, more = seen["one"].out.splitlines()
        assert mode == "2777:2000" and more == str(24 << 20)
        assert 16 << 20 <= int(size) < 20 << 20 and df.split()[5] == "/data"
        assert int(df.split()[2]) >= 16 << 10 and df.split()[4] == "100%"
        await cri("StopPodSandbox", pod_sandbox_id=first)
        await cri("RemovePodSandbox", pod_sandbox_id=first)
        second = await _pod(cri, 2, emptydir_limits="other=32Mi")
        seen = await run(cri, second, {"three": Run("stat -c %s /data/big; cat /other/file", fields=fields)})
        assert seen["three"].out.split() == [size, "other"]
        await cri("RemovePodSandbox", pod_sandbox_id=second)


FULL = "stat -c %s /data/big; cat /other/file; if echo more > /data/more && sync; then echo room; else echo full; fi"


@pytest.mark.only_on("qemu", "no other can save guests")
async def test_a_limited_one_is_the_same_after_suspend_and_in_a_checkpoint(world: VmWorld, tmp_path: Path) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    fields = _mounts(data=kubelet.data, other=kubelet._volume("empty-dir", "other"))
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, emptydir_limits="data=16Mi", suspend="manual")
        container = await cri.container(pod, "sleep", "1000", **fields)
        await cri("StartContainer", container_id=container)
        fill = "dd if=/dev/zero of=/data/big bs=64k count=1024 2>/dev/null; echo other > /other/file; " + FULL
        before = (await _output(cri, container, fill)).splitlines()
        assert before[1:] == ["other", "full"]
        await cri.ours("SuspendPod", pod)
        await cri.ours("ResumePod", pod)
        assert (await _output(cri, container, FULL)).splitlines() == before
        output = tmp_path / "checkpoint"
        output.mkdir(0o700)
        asked = {"pod_sandbox_id": pod, "output_path": str(output), "container_ids": [container]}
        await cri("CheckpointPod", deadline_s=300, **asked)
        assert (await _output(cri, container, "rm /data/big; echo new > /data/more; cat /data/more")) == "new"
        mounts = {"data": "empty-dir", "other": "empty-dir"}
        restored = await _restored(cri, world, output, mounts=mounts, emptydir_limits="data=16Mi")
        made = restored.restored_containers[0].container_id
        await cri("StartContainer", container_id=made)
        assert (await _output(cri, made, FULL)).splitlines() == before
        for one in (pod, restored.pod_sandbox_id):
            await cri("RemovePodSandbox", pod_sandbox_id=one)


async def _restored(
    cri: Client, world: VmWorld, output: Path, *, mounts: dict[str, str], **more: str
) -> pb.RestorePodResponse:
    """A pod of another uid with the same volumes: by name, of what kind they are."""
    kubelet = Kubelet(world.root / "kubelet", "uid-other")
    volumes = kubelet.directory / "volumes"
    places = {name: volumes / f"kubernetes.io~{kind}" / name for name, kind in mounts.items()}
    for path in places.values():
        path.mkdir(parents=True, exist_ok=True)
    names = pb.PodSandboxMetadata(name="other", namespace="default", uid="uid-other")
    given = {f"clearpod.io/{key.replace('_', '-')}": value for key, value in more.items()}
    annotations = GUEST | {"clearpod.io/suspend": "manual"} | given
    logs = f"{cri.node.config.run_dir}/logs-other"
    config = cri.sandbox("other", metadata=names, annotations=annotations, log_directory=logs)
    containers = [cri.config("sleep", "1000", **_mounts(**places))]
    asked = {"checkpoint_path": str(output), "config": config, "container_configs": containers}
    return await cri("RestorePod", deadline_s=300, **asked)


async def test_a_config_map_in_memory_is_kept_current(world: VmWorld) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    async with world.daemon() as cri:
        cri.node.refresher._check_s = 0.2
        pod = await _pod(cri, 0)
        fields = _mounts(map=kubelet.map, **{"etc/hosts": kubelet.hosts})
        container = await cri.container(pod, "sleep", "1000", **fields)
        await cri("StartContainer", container_id=container)
        assert await _output(cri, container, "cat /map/key /map/old") == "oneold"
        assert "of-the-kubelet" in await _output(cri, container, "cat /etc/hosts")
        assert await _output(cri, container, "stat -f -c %T /map") == "tmpfs"
        assert (
            await _output(cri, container, f"/probe {KINDS.format('/map')}; rm /map/m /map/told")
        ).splitlines() == ALL
        kubelet.write(key="two", new="new")
        async with asyncio.timeout(30 * PATIENCE):
            while await _output(cri, container, "cat /map/key") != "two":
                await asyncio.sleep(0.05)
        assert await _output(cri, container, "ls /map") == "key\nnew"
        assert len((await _output(cri, container, "ls -A /map")).split()) == 4, "one version, and the link to it"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_termination_log_that_was_written_is_on_the_host_though_the_vm_dies(world: VmWorld) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    log = kubelet.directory / "containers/main/0a1b2c3d"
    log.parent.mkdir(parents=True)
    log.touch()
    async with world.daemon() as cri:
        pod = await _pod(cri, 0)
        mounts = [pb.Mount(host_path=str(log), container_path="/dev/termination-log")]
        script = "echo last words > /dev/termination-log; echo written; exec sleep 1000"
        c = await cri.container(pod, "sh", "-c", script, name="main", mounts=mounts)
        await cri("StartContainer", container_id=c)
        await _until_logged(cri, c, "written")
        vm = cri.node.pods.get(pod).vm
        assert vm is not None
        os.kill(vm.pid, signal.SIGKILL)
        assert (await cri.ended(c)).exit_code != 0
        assert log.read_text() == "last words\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
