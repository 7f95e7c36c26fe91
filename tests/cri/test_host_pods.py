# SPDX-License-Identifier: Apache-2.0
"""Pods with namespaces of the host: what they have of it, and that they live as pods in VMs do."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.pods.forward import connect
from cri.store.images import ImageStore
from stage1.linux import cgroup
from stage1.pod.on_host import NEEDED
from tests.fakes import places
from tests.fakes.outer_net import BIN_DIR, OuterNet, outer_net
from tests.fakes.pulled import pull_blocking

from .conftest import Client, Registered
from .host_rig import FOREVER, NODE, POD, HostWorld, host_world, options, out, run_container, run_pod, tool

PIDS = "cd /proc; echo [0-9]*"
"""Without looking at those that end meanwhile."""


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[HostWorld]:
    with host_world(sample, guest_dir) as made:
        yield made


async def test_a_host_network_pod_has_the_hosts_network_and_name(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        expected = options(network=NODE)
        pod = await run_pod(cri, expected)
        status = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status
        assert status.network.ip == "" and status.linux.namespaces.options == expected
        c = await run_container(cri, pod, *FOREVER, namespaces=expected)
        for name, shared in (("net", True), ("uts", True), ("ipc", False), ("pid", False), ("mnt", False)):
            ours = os.readlink(f"/proc/self/ns/{name}")
            assert (await out(cri, c, "readlink", f"/proc/self/ns/{name}") == ours) is shared, name
        assert await out(cri, c, "hostname") == socket.gethostname()
        assert await out(cri, c, "cat", "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text().strip()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_containers_see_the_hosts_processes_and_each_other(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        expected = options(pid=NODE)
        pod = await run_pod(cri, expected)
        c = await run_container(cri, pod, *FOREVER, namespaces=expected)
        assert await out(cri, c, "readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")
        assert str(os.getpid()) in (await out(cri, c, "sh", "-c", PIDS)).split()
        assert await out(cri, c, "readlink", "/proc/self/ns/net") != os.readlink("/proc/self/ns/net")
        assert (await out(cri, c, "ls", "/sys/class/net")).split() == ["lo"], "there is no CNI here"
        assert await out(cri, c, "hostname") == "web"
        shared = await run_container(cri, pod, *FOREVER, namespaces=options(pid=POD), name="shared")
        second = await run_container(cri, pod, *FOREVER, namespaces=options(pid=POD), name="second")
        assert str(os.getpid()) not in (await out(cri, shared, "sh", "-c", PIDS)).split()
        inside = [await out(cri, one, "readlink", "/proc/self/ns/pid") for one in (shared, second)]
        assert inside[0] == inside[1] != os.readlink("/proc/self/ns/pid")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@pytest.mark.parametrize("ipc", [NODE, POD])
async def test_shared_memory_of_the_host_is_seen_only_on_request(machine: HostWorld, ipc: int) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="clearpod-test-") as segment:
        async with machine.daemon() as cri:
            expected = options(pid=NODE, ipc=ipc)
            pod = await run_pod(cri, expected)
            c = await run_container(cri, pod, *FOREVER, namespaces=expected)
            seen = os.path.basename(segment.name) in (await out(cri, c, "ls", "/dev/shm")).split()
            assert seen is (ipc == NODE)
            same = await out(cri, c, "readlink", "/proc/self/ns/ipc") == os.readlink("/proc/self/ns/ipc")
            assert same is (ipc == NODE)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []


async def test_the_life_of_a_container_is_that_of_one_in_a_vm(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        expected = options(network=NODE)
        pod = await run_pod(cri, expected)
        script = "echo out; echo err >&2; echo kept > /made; exit 7"
        c = await run_container(cri, pod, "sh", "-c", script, namespaces=expected, name="short")
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (7, "Error")
        output = Path(status.log_path).read_text()
        assert "stdout F out\n" in output and "stderr F err\n" in output
        await cri("RemoveContainer", container_id=c)
        code, sentence = await _not_started(cri, pod, "/no/such/program", namespaces=expected)
        assert code == "INVALID_ARGUMENT" or "no/such/program" in sentence
        tty = await run_container(cri, pod, "sh", "-c", "tty; sleep 1000", namespaces=expected, name="tty", tty=True)
        trap = "trap 'echo bye; exit 3' TERM; touch /ready; while :; do sleep 0.05; done"
        polite = await run_container(cri, pod, "sh", "-c", trap, namespaces=expected, name="polite")
        await out(cri, polite, "sh", "-c", "until [ -e /ready ]; do sleep 0.05; done")
        await cri("StopContainer", container_id=polite, timeout=20)
        assert (await cri.status(polite)).exit_code == 3
        stats = (await cri("ContainerStats", container_id=tty)).stats
        assert stats.attributes.id == tty and stats.cpu.timestamp and stats.cpu.usage_core_nano_seconds.value
        assert (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.attributes.id == pod
        assert "/dev/pts/0" in Path((await cri.status(tty)).log_path).read_text()
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri.status(tty)).exit_code == 137
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_limits_are_kept_where_the_host_can(machine: HostWorld) -> None:
    expected = options(network=NODE)
    async with machine.daemon() as cri:
        pod = await run_pod(cri, expected)
        (place,) = machine.cgroups()
        resources = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512, cpu_quota=50_000,
                                               cpu_period=100_000)  # fmt: skip
        context = pb.LinuxContainerSecurityContext(namespace_options=expected)
        linux = pb.LinuxContainerConfig(security_context=context, resources=resources)
        c = await cri.container(pod, *FOREVER, linux=linux)
        await cri("StartContainer", container_id=c)
        below = place / "clearpod" / c
        assert (below / "cgroup.procs").read_text().split() == [str(cri.node.pods.get(pod).containers[c].guest_pid)]
        if cgroup.controllers(str(place)) >= NEEDED:
            assert (below / "memory.max").read_text() == f"{64 << 20}\n"
            assert (below / "cpu.max").read_text() == "50000 100000\n"
            stats = (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats
            assert stats.linux.memory.working_set_bytes.value > 0
            new = pb.LinuxContainerResources(memory_limit_in_bytes=32 << 20)
            await cri("UpdateContainerResources", container_id=c, linux=new)
            assert (below / "memory.max").read_text() == f"{32 << 20}\n"
        else:
            assert not (below / "memory.max").exists()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def _not_started(cri: Client, pod: str, *command: str, namespaces: pb.NamespaceOption) -> tuple[str, str]:
    context = pb.LinuxContainerSecurityContext(namespace_options=namespaces)
    linux = pb.LinuxContainerConfig(security_context=context)
    made = await cri.container(pod, *command, linux=linux, name="bad")
    return await cri.refused("StartContainer", container_id=made)


async def test_the_usual_run_directory_lies_where_a_guests_paths_are(machine: HostWorld) -> None:
    os.makedirs("/run/clearpod", exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="", dir="/run/clearpod") as place:
        machine.move_run_dir(place)
        (machine.root / "volume").mkdir()
        async with machine.daemon() as cri:
            expected = options(network=NODE)
            pod = await run_pod(cri, expected)
            volume = pb.Mount(host_path=f"{machine.root}/volume", container_path="/v")
            c = await run_container(cri, pod, *FOREVER, namespaces=expected, mounts=[volume])
            assert await out(cri, c, "sh", "-c", "echo yes > /v/new; cat /etc/hostname") == socket.gethostname()
            assert (machine.root / "volume/new").read_text() == "yes\n"
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert machine.left_over() == []


async def test_an_image_is_a_volume_as_in_a_vm(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        expected = options(network=NODE)
        pod = await run_pod(cri, expected)
        volume = pb.Mount(container_path="/image", image=pb.ImageSpec(image=cri.image), readonly=True)
        c = await run_container(cri, pod, *FOREVER, namespaces=expected, mounts=[volume])
        assert await out(cri, c, "/image/bin/busybox", "echo", "runs") == "runs"
        assert await out(cri, c, "sh", "-c", "(echo > /image/new) 2>/dev/null || echo refused") == "refused"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_volumes_are_writable_or_not_and_follow_the_host(machine: HostWorld) -> None:
    source = machine.root / "volume"
    source.mkdir()
    (source / "file").write_text("from the host")
    await tool("mount", "--bind", source, source)
    await tool("mount", "--make-shared", source)
    (source / "inner").mkdir()
    await tool("mount", "-t", "tmpfs", "inner", source / "inner")
    try:
        async with machine.daemon() as cri:
            expected = options(network=NODE)
            pod = await run_pod(cri, expected)
            follows = pb.PROPAGATION_HOST_TO_CONTAINER
            mounts = [
                pb.Mount(host_path=str(source), container_path="/rw"),
                pb.Mount(host_path=str(source), container_path="/ro", readonly=True),
                pb.Mount(host_path=str(source), container_path="/rro", readonly=True, recursive_read_only=True),
                pb.Mount(host_path=str(source), container_path="/follows", propagation=follows),
            ]
            c = await run_container(cri, pod, *FOREVER, namespaces=expected, mounts=mounts)
            assert await out(cri, c, "cat", "/ro/file") == "from the host"
            write = "echo yes > /rw/new; for to in /ro /rro; do (echo no > $to/new) 2>/dev/null || echo refused; done"
            assert (await out(cri, c, "sh", "-c", write)).split() == ["refused", "refused"]
            assert (source / "new").read_text() == "yes\n"
            assert await out(cri, c, "sh", "-c", "(echo no > /rro/inner/new) 2>/dev/null || echo refused") == "refused"
            assert await out(cri, c, "sh", "-c", "echo yes > /ro/inner/new; cat /rro/inner/new") == "yes"
            (source / "below").mkdir()
            await tool("mount", "-t", "tmpfs", "later", source / "below")
            (source / "below/late").write_text("")
            assert await out(cri, c, "ls", "/follows/below") == "late"
            assert await out(cri, c, "ls", "/rw/below") == ""
            await tool("umount", source / "below")
            (source / "below").rmdir()  # nobody holds it
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    finally:
        await tool("umount", "-R", source)
    assert machine.left_over() == []


@pytest.fixture
def networked(sample: Registered, guest_dir: Path) -> Iterator[tuple[HostWorld, OuterNet]]:
    """In a netns that stands for the host's, with real CNI plugins."""
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    store = ImageStore(sample.state_dir)
    pull_blocking(store, sample.reference, config=Config())
    store.close()
    with (
        places.short_directory() as root,
        outer_net(Path(root)) as net,
        host_world(sample, guest_dir) as made,
    ):
        made.host = made.host._replace(network=net.settings)
        yield made, net


async def test_with_the_hosts_pids_only_the_pod_is_in_the_nodes_network(
    networked: tuple[HostWorld, OuterNet],
) -> None:
    machine, net = networked
    async with machine.daemon() as cri:
        expected = options(pid=NODE)
        pod = await run_pod(cri, expected)
        status = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network
        assert status.ip.startswith("10.77.0.") and status.additional_ips[0].ip.startswith("fd77::")
        script = "echo from the pod > /f; exec httpd -f -p 80 -h /"
        c = await run_container(cri, pod, "sh", "-c", script, namespaces=expected)
        assert f"inet {status.ip}/24" in await out(cri, c, "ip", "addr", "show", "eth0")
        other = await run_pod(cri, options(network=NODE), name="beside")
        client = await run_container(cri, other, *FOREVER, namespaces=options(network=NODE))
        assert "ct0" in (await out(cri, client, "ls", "/sys/class/net")).split()
        fetch = f"until wget -qO- http://{status.ip}/f; do sleep 0.1; done"
        assert await out(cri, client, "sh", "-c", fetch) == "from the pod"
        for one in (other, pod):
            await cri("RemovePodSandbox", pod_sandbox_id=one)
        assert machine.left_over() == [] and "tap" not in net.state() and not list((net.root / "cache").glob("*.json"))


async def test_port_forward_reaches_the_hosts_loopback(machine: HostWorld) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, machine.daemon() as cri:
        pod = await run_pod(cri, options(network=NODE))
        async with connect(cri.node.pods.get(pod), port) as connection:
            await connection.send(b"hello\n", end=True)
            assert await connection.read() == b"hello\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []
