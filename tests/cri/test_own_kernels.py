# SPDX-License-Identifier: Apache-2.0
"""Pods that boot a kernel out of their image, in real VMs: through the CRI, with a kernel of the test's own."""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.pods import forward
from cri.store.images import ImageStore
from stage1 import engine
from stage1.linux.cgroup import OURS
from stage1.vm import hypervisors, qemu
from stage1.vm.choose import choose
from stage1.vm.host import HostPod
from stage1.vm.spec import VmSpec
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess
from tests.cri.conftest import Client, Registered, World, vm_world
from tests.fakes import kernels, places
from tests.fakes.far_host import run_here
from tests.fakes.guest import FakeVmm
from tests.fakes.oci_layout import Entry, directory, file
from tests.fakes.outer_net import outer_net
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

pytestmark = pytest.mark.vm


class Images(NamedTuple):
    """References: hello on a microvm and on a q35; one with an exit code by the debug device; a sample of others."""

    microvm: str
    q35: str
    debug_exit: str
    sample: str
    state_dir: str


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    place = tmp_path_factory.mktemp("kernels")
    with Registry(place / "registry") as registry:
        made = Images(
            kernels.hello_image(registry, place, "t/microvm:1"),
            kernels.hello_image(registry, place, "t/q35:1", machine="q35"),
            kernels.hello_image(registry, place, "t/exit:1", network="none", exit="debug-exit"),
            kernels.push(registry, place, "t/sample:1", files=[file("true", b"x")], labels={}),
            f"{place}/state",
        )
        store = ImageStore(made.state_dir)
        for reference in made[:-1]:
            pull_blocking(store, reference, config=Config())
        store.close()
        yield made


class Either:
    """Starts instant fakes of our guest, and real VMs for kernels out of images."""

    def __init__(self, fake: FakeVmm) -> None:
        self.fake, self.real = fake, ProcessVmm()

    def start(self, vm: VmSpec | HostPod) -> VmProcess:
        return self.real.start(vm) if isinstance(vm, VmSpec) and vm.own else self.fake.start(vm)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fake, name)


@pytest.fixture
def machine(images: Images, guest_dir: Path) -> Iterator[World]:
    with places.short_directory() as root:
        made = World(Path(root), Registered(images.microvm, images.state_dir))
        made.vmm = Either(made.vmm)  # type: ignore[assignment]
        for name in ("jailer", qemu.HYPERVISOR.filter):
            shutil.copy2(guest_dir / name, root + "/guest")
        choice = choose("qemu", hypervisors.facts())
        made.host = made.host._replace(choice=choice, ids=made.config.jail.ids, cgroup_parent=OURS)
        try:
            yield made
        finally:
            made.vmm.stop()
            for place in engine.pod_directories(made.host):
                engine.clean_up(place)


async def _started(cri: Client, pod: str, image: str, *args: str, name: str = "c", **more: Any) -> str:
    made = await cri.container(pod, name=name, image=pb.ImageSpec(image=image), args=args, **more)
    await cri("StartContainer", container_id=made)
    return made


def _log(path: str) -> list[str]:
    return [line.split(" ", 3)[3] for line in Path(path).read_text().splitlines()]


async def _until_logged(cri: Client, container: str, line: str, limit_s: float = 60) -> None:
    """Wait until its log has this line."""
    path = (await cri.status(container)).log_path
    async with asyncio.timeout(limit_s * PATIENCE):
        while not os.path.exists(path) or line not in _log(path):
            await asyncio.sleep(0.02)


async def test_a_kernel_runs_in_a_plain_pod_and_its_end_is_the_containers(machine: World, images: Images) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        given = {"A": b"1", "DB_SERVICE_HOST": b"x", "DB_SERVICE_PORT": b"1", "DB_PORT": b"tcp://x:1"}
        envs = [pb.KeyValue(key=key, value=value) for key, value in given.items()]
        c = await _started(cri, pod, images.microvm, "count=3", "exit", envs=envs)
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (0, "Completed")
        lines = _log(status.log_path)
        assert lines[0] == "hello"
        assert lines[1].startswith("arguments: console=ttyS0 panic=-1 A=1 count=3 exit")
        assert lines[2:5] == ["1", "2", "3"]
        again = await _started(cri, pod, images.debug_exit, "exit=7", name="d")
        assert (await cri.ended(again)).exit_code == 7
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@pytest.mark.parametrize("by", [{"runtime_handler": "clearpod-image"}, {"annotations": {policy.KERNEL: "image"}}])
async def test_a_pod_that_is_known_to_bring_its_kernel_boots_no_guest(
    machine: World, images: Images, by: dict[str, Any]
) -> None:
    handler = by.get("runtime_handler", "")
    async with machine.daemon() as cri:
        config = cri.sandbox("web", annotations=by.get("annotations", {}), log_directory=f"{machine.root}/logs")
        pod = (await cri("RunPodSandbox", config=config, runtime_handler=handler)).pod_sandbox_id
        assert cri.node.pods.get(pod).vm is None
        assert not machine.vmm.started
        status = await cri("PodSandboxStatus", pod_sandbox_id=pod)
        assert (status.status.state, status.status.runtime_handler) == (pb.SANDBOX_READY, handler)
        sample = cri.config("x", image=pb.ImageSpec(image=images.sample))
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=sample))[0] == "UNIMPLEMENTED"
        c = await _started(cri, pod, images.microvm, "exit")
        assert ((await cri.ended(c)).exit_code, _log((await cri.status(c)).log_path)[0]) == (0, "hello")
    async with machine.daemon() as cri:
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_booted_guest_is_replaced_by_the_kernel(images: Images, guest_dir: Path) -> None:
    with vm_world(Registered(images.microvm, images.state_dir), guest_dir) as machine:
        async with machine.daemon() as cri:
            pod = await cri.pod(log_directory=f"{machine.root}/logs")
            guest = cri.node.pods.get(pod).vm
            c = await _started(cri, pod, images.microvm, "exit")
            status = await cri.ended(c)
            assert (status.exit_code, _log(status.log_path)[0]) == (0, "hello")
            assert guest is not None and not guest.alive()
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert machine.left_over() == []


async def test_the_power_button_is_pressed_and_the_grace_waited_for(machine: World, images: Images) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        polite = await _started(cri, pod, images.q35)
        await _until_logged(cri, polite, "ready without a network")
        await cri("StopContainer", container_id=polite, timeout=60)
        status = await cri.status(polite)
        assert (status.exit_code, status.reason) == (0, "Completed")
        assert _log(status.log_path)[-2:] == ["asked to end", "bye"]
        deaf = await _started(cri, pod, images.q35, "spin", name="deaf")
        await _until_logged(cri, deaf, "ready without a network")
        await cri("StopContainer", container_id=deaf, timeout=1)
        assert (await cri.status(deaf)).exit_code == 137
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@pytest.mark.parametrize("word", ["flood=3288", "gush"])
async def test_a_kernel_that_floods_is_one_of_many(machine: World, images: Images, word: str) -> None:
    """The monitor, by the port of a q35's CPU hotplug, or the serial port."""
    async with machine.daemon() as cri:
        pod = await cri.pod("loud", log_directory=f"{machine.root}/logs")
        loud = await _started(cri, pod, images.q35, word)
        other = await cri.pod("other", log_directory=f"{machine.root}/other")
        quiet = await _started(cri, other, images.q35)
        await _until_logged(cri, quiet, "ready without a network")
        agent: Any = cri.node.pods.get(pod)._agent
        async with asyncio.timeout(30 * PATIENCE):
            while word != "gush" and not agent._run.monitor.is_cut:
                await asyncio.sleep(0.05)
        await cri("StopContainer", container_id=quiet, timeout=60)
        assert (await cri.status(quiet)).exit_code == 0
        assert (await cri.status(loud)).state == pb.CONTAINER_RUNNING
        await cri("StopContainer", container_id=loud, timeout=1)
        assert (await cri.status(loud)).exit_code == 137
        for one in (pod, other):
            await cri("RemovePodSandbox", pod_sandbox_id=one)
        assert machine.left_over() == []


async def test_what_needs_an_agent_is_refused_and_the_kernel_runs_on(machine: World, images: Images) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod()
        c = await _started(cri, pod, images.microvm)
        for call in (
            {"name": "ExecSync", "container_id": c, "cmd": ["true"]},
            {"name": "Exec", "container_id": c, "cmd": ["true"], "stdout": True},
            {"name": "Attach", "container_id": c, "stdout": True},
            {"name": "UpdateContainerResources", "container_id": c, "linux": pb.LinuxContainerResources(cpu_shares=99)},
            {"name": "CreateContainer", "pod_sandbox_id": pod, "config": cri.config("x", name="b")},
        ):
            code, sentence = await cri.refused(**call)
            assert code == "UNIMPLEMENTED"
            assert "kernel" in sentence
        sample = cri.config("x", name="b", image=pb.ImageSpec(image=images.sample))
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=sample))[0] == "UNIMPLEMENTED"
        stats = (await cri("ContainerStats", container_id=c)).stats
        assert stats.memory.usage_bytes.value > 0
        assert stats.cpu.usage_core_nano_seconds.value > 0
        assert (await cri.status(c)).state == pb.CONTAINER_RUNNING
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri.status(c)).exit_code == 137
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_pod_with_another_container_keeps_its_guest(machine: World, images: Images) -> None:
    machine.host = machine.host._replace(ids=None)  # fake guests have no user namespaces
    async with machine.daemon() as cri:
        pod = await cri.pod()
        sample = cri.config("x", image=pb.ImageSpec(image=images.sample))
        await cri("CreateContainer", pod_sandbox_id=pod, config=sample)
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config(name="k"))
        assert (code, "container c" in sentence) == ("UNIMPLEMENTED", True)
        await cri("CreateContainer", pod_sandbox_id=pod, config=cri.config("y", name="d", image=sample.image))


BAD = {
    "absent": ({"path": "/no"}, "NOT_FOUND", "/no"),
    "a text": ({"path": "/text"}, "INVALID_ARGUMENT", "not a kernel"),
    "a directory": ({"path": "/etc"}, "INVALID_ARGUMENT", "/etc"),
    "a lie": ({"path": "/kernel", "machine": "isapc"}, "INVALID_ARGUMENT", "isapc"),
    "no form": ({"path": "/kernel", "network": "x"}, "INVALID_ARGUMENT", "network"),
    "an initrd that is not there": ({"path": "/kernel", "initrd": "/no"}, "NOT_FOUND", "initrd"),
    "a link that leads out": ({"path": "/out"}, "NOT_FOUND", "/out"),
    "too large a disk": ({"path": "/kernel", "block": "/big"}, "INVALID_ARGUMENT", "block"),
}


async def test_an_image_that_lies_is_refused_and_the_pod_keeps_its_guest(
    machine: World, images: Images, tmp_path: Path
) -> None:
    machine.host = machine.host._replace(ids=None)  # fake guests have no user namespaces
    files = [directory("etc"), file("kernel", kernels.hello()), file("text", b"#!/bin/sh\n")]
    files.append(Entry("out", "s", link="/../../../../../../../../boot/vmlinuz"))
    with Registry(tmp_path / "registry") as registry:
        async with machine.daemon() as cri:
            pod = await cri.pod()
            for number, (what, (labels, code, noun)) in enumerate(BAD.items()):
                given = kernels.labelled(**{"network": "none", **labels})
                more = [file("big", bytes(17 << 20))] if "block" in labels else []
                image = kernels.push(registry, tmp_path, f"t/bad{number}:1", files=[*files, *more], labels=given)
                await cri("PullImage", image=pb.ImageSpec(image=image))
                config = cri.config(name=f"c{number}", image=pb.ImageSpec(image=image))
                error = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
                assert (error[0], noun in error[1]) == (code, True), (what, error)
            sample = pb.ImageSpec(image=images.sample)
            await cri("CreateContainer", pod_sandbox_id=pod, config=cri.config("x", image=sample))


async def test_a_kernel_outlives_the_daemon_and_its_log_has_each_line_once(machine: World, images: Images) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        c = await _started(cri, pod, images.q35, "count=5000")
    async with machine.daemon() as cri:
        await _until_logged(cri, c, "ready without a network")
        status = await cri.status(c)
        assert (status.state, _log(status.log_path)[2:5002]) == (
            pb.CONTAINER_RUNNING,
            [str(one) for one in range(1, 5001)],
        )
        await cri("StopContainer", container_id=c, timeout=60)
        assert (await cri.status(c)).exit_code == 0
    async with machine.daemon() as cri:
        again = await _started(cri, pod, images.debug_exit, "exit=3", name="again")
        assert (await cri.ended(again)).exit_code == 3
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_one_that_was_made_and_not_started_is_started_by_the_next_daemon(machine: World, images: Images) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        made = await cri.container(pod, image=pb.ImageSpec(image=images.q35), args=["exit"])
    async with machine.daemon() as cri:
        assert (await cri.status(made)).state == pb.CONTAINER_CREATED
        await cri("StartContainer", container_id=made)
        status = await cri.ended(made)
        assert (status.exit_code, _log(status.log_path)[0]) == (0, "hello")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_kernel_that_ends_without_a_daemon_has_all_of_its_log_and_an_unknown_end(
    machine: World, images: Images
) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        c = await _started(cri, pod, images.q35, "spin")
        await _until_logged(cri, c, "ready without a network")
        vm = cri.node.pods.get(pod).vm
        assert vm is not None
    with Path(machine.config.run_dir, "pods", pod, "serial.log").open("ab") as serial:  # noqa: ASYNC230 - no daemon runs
        serial.write(b"last words")
    vm.kill()
    async with machine.daemon() as cri:
        status = await cri.ended(c)
        assert (status.exit_code, status.reason, _log(status.log_path)[-1]) == (255, "Unknown", "last words")
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@pytest.fixture
def connected(machine: World) -> Iterator[World]:
    """The machine with the embedded network, in a netns that stands for the host."""
    with outer_net(machine.root / "outer") as net:
        net.use_default()
        machine.host = machine.host._replace(network=net.settings)
        yield machine


async def _ip(cri: Client, pod: str) -> str:
    return str((await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network.ip)


async def test_a_kernel_on_mmio_answers_ping_and_udp_at_its_pods_address(connected: World, images: Images) -> None:
    async with connected.daemon() as cri:
        pod = await cri.pod(log_directory=f"{connected.root}/logs")
        c = await _started(cri, pod, images.microvm)
        await _until_logged(cri, c, "ready")
        ip = await _ip(cri, pod)
        await asyncio.to_thread(run_here, "busybox", "ping", "-c", "2", "-W", "20", ip)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20 * PATIENCE)
            for sent, answered in ((b"stressed", b"desserts"), (b"bye", b"eyb")):
                client.sendto(sent, (ip, 7))
                assert client.recv(100) == answered
        assert (await cri.ended(c)).exit_code == 0
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert connected.left_over() == []


async def test_a_stock_kernel_with_an_initramfs_serves_and_reacts_to_its_power_button(
    connected: World, images: Images, guest_dir: Path, tmp_path: Path
) -> None:
    labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine="q35")
    with Registry(tmp_path / "registry") as registry:
        files = kernels.debian_files(guest_dir)
        image = kernels.push(registry, tmp_path, "t/debian:1", files=files, labels=labels)
        async with connected.daemon() as cri:
            pod = await cri.pod(log_directory=f"{connected.root}/logs", annotations={policy.MEMORY: "192"})
            await cri("PullImage", image=pb.ImageSpec(image=image))
            c = await _started(cri, pod, image, "quiet")
            await _until_logged(cri, c, "a kernel of Linux is ready", limit_s=120)
            ip = await _ip(cri, pod)
            fetch = ("busybox", "wget", "-q", "-O", "-", f"http://{ip}/f")
            assert await asyncio.to_thread(run_here, *fetch) == "from the kernel\n"
            async with forward.connect(cri.node.pods.get(pod), 80) as forwarded:
                await forwarded.send(b"GET /f HTTP/1.0\r\n\r\n", end=True)
                answer = b""
                while data := await forwarded.read():
                    answer += data
            assert answer.endswith(b"from the kernel\n")
            await cri("StopContainer", container_id=c, timeout=100, deadline_s=110)
            status = await cri.status(c)
            assert status.exit_code == 0
            assert "the button was pressed" in _log(status.log_path)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert connected.left_over() == []
