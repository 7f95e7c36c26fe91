# SPDX-License-Identifier: Apache-2.0
"""Pods with namespaces of the host: the real agent and the real crun, as processes of this machine, without any VM."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.config import parse
from cri.pb import runtime_pb2 as pb
from cri.pods.forward import connect
from stage1 import engine
from stage1.linux import cgroup
from stage1.linux.host import host_facts
from stage1.pod.model import HOST_NAMESPACES
from stage1.vm.choose import on_host
from stage1.vm.spec import VmSpec
from stage1.vm.vmm import ProcessVmm, VmProcess

from .conftest import Client, Registered, World

POD, CONTAINER, NODE = pb.POD, pb.CONTAINER, pb.NODE
FOREVER = ("sleep", "1000")


class Either:
    """Starts pods on the host for real, and fake VMs for the others."""

    def __init__(self, fake: Any) -> None:
        self._fake, self._real = fake, ProcessVmm()

    def start(self, vm: VmSpec) -> VmProcess:
        started: VmProcess = (self._real if vm.host else self._fake).start(vm)
        return started


class HostWorld(World):
    """A machine on which pods may have every namespace of the host."""

    def __init__(self, root: Path, registered: Registered, guest_dir: Path) -> None:
        super().__init__(root, registered)
        (root / "guest/agent").symlink_to(guest_dir / "agent")
        self._state_dir = registered.state_dir
        self.allow(*HOST_NAMESPACES)
        self.host = self.host._replace(host_pods=on_host(host_facts()))
        self.fake, self.vmm = self.vmm, Either(self.vmm)  # type: ignore[assignment]

    def allow(self, *namespaces: str) -> None:
        """From the next daemon on."""
        text = f'run_dir = "{self.root}/run"\nstate_dir = "{self._state_dir}"\n[vm]\nboot_timeout_s = 20\n'
        self.config = parse(f"{text}[host_pods]\nallow = {json.dumps(namespaces)}")

    def left_over(self) -> list[str]:
        """As for the fakes, and what only pods on the host leave."""
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        mine = [line.decode(errors="replace") for line in lines if f"{self.root}/".encode() in line]
        scratch = Path(self.config.state_dir) / "scratch"
        pods = f"{self.config.run_dir}/pods"
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{self.root}/" in line]
        return [*os.listdir(pods), *mounts, *mine, *map(str, scratch.glob("*")), *map(str, self.cgroups())]

    def cgroups(self) -> list[Path]:
        return list(Path(cgroup.tree()).glob("clearpod-*"))


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[HostWorld]:
    if not host_facts().crun:
        pytest.skip("needs crun on the host: apt install crun")
    with tempfile.TemporaryDirectory(prefix="cp", dir="/tmp") as root:
        made = HostWorld(Path(root), sample, guest_dir)
        try:
            yield made
        finally:
            made.fake.stop()
            for place in engine.pod_directories(made.host):
                engine.collect(place)


def options(network: int = POD, pid: int = CONTAINER, ipc: int = POD) -> pb.NamespaceOption:
    return pb.NamespaceOption(network=network, pid=pid, ipc=ipc)  # type: ignore[arg-type]


async def run_pod(cri: Client, wanted: pb.NamespaceOption, name: str = "web", **fields: Any) -> str:
    """The image is pulled, then the sandbox is run."""
    await cri("PullImage", image=pb.ImageSpec(image=cri.image))
    context = pb.LinuxSandboxSecurityContext(namespace_options=wanted)
    linux = pb.LinuxPodSandboxConfig(security_context=context, **fields)
    return await cri.pod(name, linux=linux, log_directory=f"{Path(cri.node.config.run_dir).parent}/logs")


async def run_container(cri: Client, pod: str, *command: str, wanted: pb.NamespaceOption, **fields: Any) -> str:
    context = pb.LinuxContainerSecurityContext(namespace_options=wanted)
    linux = pb.LinuxContainerConfig(security_context=context)
    made = await cri.container(pod, *command, linux=linux, **fields)
    await cri("StartContainer", container_id=made)
    return made


async def out(cri: Client, container: str, *command: str) -> str:
    done = await cri("ExecSync", container_id=container, cmd=command, timeout=30)
    assert done.exit_code == 0, done
    return str(done.stdout.decode()).strip()


async def test_a_host_network_pod_has_the_hosts_network_and_name(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        wanted = options(network=NODE)
        pod = await run_pod(cri, wanted)
        status = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status
        assert status.network.ip == "" and status.linux.namespaces.options == wanted
        c = await run_container(cri, pod, *FOREVER, wanted=wanted)
        for name, shared in (("net", True), ("uts", True), ("ipc", False), ("pid", False), ("mnt", False)):
            ours = os.readlink(f"/proc/self/ns/{name}")
            assert (await out(cri, c, "readlink", f"/proc/self/ns/{name}") == ours) is shared, name
        assert await out(cri, c, "hostname") == socket.gethostname()
        assert await out(cri, c, "cat", "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text().strip()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_containers_see_the_hosts_processes_and_each_other(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        wanted = options(pid=NODE)
        pod = await run_pod(cri, wanted)
        c = await run_container(cri, pod, *FOREVER, wanted=wanted)
        assert await out(cri, c, "readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")
        assert str(os.getpid()) in (await out(cri, c, "ls", "/proc")).split()
        assert await out(cri, c, "readlink", "/proc/self/ns/net") != os.readlink("/proc/self/ns/net")
        assert (await out(cri, c, "ls", "/sys/class/net")).split() == ["lo"], "there is no CNI here"
        assert await out(cri, c, "hostname") == "web"
        shared = await run_container(cri, pod, *FOREVER, wanted=options(pid=POD), name="shared")
        second = await run_container(cri, pod, *FOREVER, wanted=options(pid=POD), name="second")
        assert str(os.getpid()) not in (await out(cri, shared, "ls", "/proc")).split()
        inside = [await out(cri, one, "readlink", "/proc/self/ns/pid") for one in (shared, second)]
        assert inside[0] == inside[1] != os.readlink("/proc/self/ns/pid")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@pytest.mark.parametrize("ipc", [NODE, POD])
async def test_shared_memory_of_the_host_is_seen_only_where_asked_for(machine: HostWorld, ipc: int) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="clearpod-test-") as segment:
        async with machine.daemon() as cri:
            wanted = options(pid=NODE, ipc=ipc)
            pod = await run_pod(cri, wanted)
            c = await run_container(cri, pod, *FOREVER, wanted=wanted)
            seen = os.path.basename(segment.name) in (await out(cri, c, "ls", "/dev/shm")).split()
            assert seen is (ipc == NODE)
            same = await out(cri, c, "readlink", "/proc/self/ns/ipc") == os.readlink("/proc/self/ns/ipc")
            assert same is (ipc == NODE)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == []


async def test_the_life_of_a_container_is_that_of_one_in_a_vm(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        wanted = options(network=NODE)
        pod = await run_pod(cri, wanted)
        script = "echo out; echo err >&2; echo kept > /made; exit 7"
        c = await run_container(cri, pod, "sh", "-c", script, wanted=wanted, name="short")
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (7, "Error")
        said = Path(status.log_path).read_text()
        assert "stdout F out\n" in said and "stderr F err\n" in said
        await cri("RemoveContainer", container_id=c)
        code, sentence = await _not_started(cri, pod, "/no/such/program", wanted=wanted)
        assert code == "INVALID_ARGUMENT" or "no/such/program" in sentence
        tty = await run_container(cri, pod, "sh", "-c", "tty; sleep 1000", wanted=wanted, name="tty", tty=True)
        trap = "trap 'echo bye; exit 3' TERM; touch /ready; while :; do sleep 0.05; done"
        polite = await run_container(cri, pod, "sh", "-c", trap, wanted=wanted, name="polite")
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


async def _not_started(cri: Client, pod: str, *command: str, wanted: pb.NamespaceOption) -> tuple[str, str]:
    context = pb.LinuxContainerSecurityContext(namespace_options=wanted)
    linux = pb.LinuxContainerConfig(security_context=context)
    made = await cri.container(pod, *command, linux=linux, name="bad")
    return await cri.refused("StartContainer", container_id=made)


async def test_volumes_are_writable_or_not_and_follow_the_host(machine: HostWorld) -> None:
    source = machine.root / "volume"
    source.mkdir()
    (source / "file").write_text("from the host")
    subprocess.run(["mount", "--bind", source, source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    (source / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", source / "inner"], check=True)
    try:
        async with machine.daemon() as cri:
            wanted = options(network=NODE)
            pod = await run_pod(cri, wanted)
            mounts = [
                pb.Mount(host_path=str(source), container_path="/rw"),
                pb.Mount(host_path=str(source), container_path="/ro", readonly=True),
                pb.Mount(host_path=str(source), container_path="/rro", readonly=True, recursive_read_only=True),
                pb.Mount(host_path=str(source), container_path="/follows", propagation=pb.PROPAGATION_HOST_TO_CONTAINER),
            ]
            c = await run_container(cri, pod, *FOREVER, wanted=wanted, mounts=mounts)
            assert await out(cri, c, "cat", "/ro/file") == "from the host"
            write = "echo yes > /rw/new; for to in /ro /rro; do (echo no > $to/new) 2>/dev/null || echo refused; done"
            assert (await out(cri, c, "sh", "-c", write)).split() == ["refused", "refused"]
            assert (source / "new").read_text() == "yes\n"
            assert await out(cri, c, "sh", "-c", "(echo no > /rro/inner/new) 2>/dev/null || echo refused") == "refused"
            assert await out(cri, c, "sh", "-c", "echo yes > /ro/inner/new; cat /rro/inner/new") == "yes"
            (source / "below").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "later", source / "below"], check=True)
            (source / "below/late").write_text("")
            assert await out(cri, c, "ls", "/follows/below") == "late"
            assert await out(cri, c, "ls", "/rw/below") == ""
            subprocess.run(["umount", source / "below"], check=True)
            (source / "below").rmdir()  # nobody holds it
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    finally:
        subprocess.run(["umount", "-R", source], check=True)
    assert machine.left_over() == []


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


async def test_a_new_daemon_goes_on_with_the_pod_and_loses_no_output(machine: HostWorld) -> None:
    wanted = options(network=NODE, pid=NODE)
    script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; done; exit 5"
    async with machine.daemon() as cri:
        pod = await run_pod(cri, wanted)
        lives = await run_container(cri, pod, *FOREVER, wanted=wanted, name="lives")
        counts = await run_container(cri, pod, "sh", "-c", script, wanted=wanted, name="counts")
        agent = engine.find_vm(engine.pod_directory(machine.host, pod))
    for _ in range(2):
        async with machine.daemon() as cri:
            assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
            assert engine.find_vm(engine.pod_directory(machine.host, pod)) == agent and agent and agent.alive()
            assert await out(cri, lives, "echo", "still here") == "still here"
    async with machine.daemon() as cri:
        status = await cri.ended(counts)
        assert status.exit_code == 5
        lines = Path(status.log_path).read_text().splitlines()
        assert [int(line.split()[-1]) for line in lines] == list(range(1, 4001))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def _pod_of_two(cri: Client) -> tuple[str, list[str], list[int]]:
    """A pod with a container in the host's pid namespace and one in the pod's; their pids on the host."""
    wanted = options(network=NODE, pid=NODE)
    pod = await run_pod(cri, wanted)
    made = [
        await run_container(cri, pod, *FOREVER, wanted=options(network=NODE, pid=pid), name=f"c{pid}")
        for pid in (NODE, POD)
    ]
    live = cri.node.pods.get(pod)
    return pod, made, [live.containers[one].guest_pid for one in made]


def _is_alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and b"sleep" in path.read_bytes()


async def test_the_containers_go_with_an_agent_that_is_killed(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod, made, pids = await _pod_of_two(cri)
        assert all(map(_is_alive, pids))
        agent = cri.node.pods.get(pod).vm
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
        for one in made:
            assert (await cri.ended(one)).exit_code == 137
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        assert not any(map(_is_alive, pids)) and machine.cgroups() == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_agent_and_daemon_killed_together_leave_nothing_after_the_next_start(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod, made, pids = await _pod_of_two(cri)
    agent = engine.find_vm(engine.pod_directory(machine.host, pod))
    assert agent is not None
    agent.kill()
    assert _is_alive(pids[0]), "in the host's pid namespace nothing but the daemon can end it"
    async with machine.daemon() as cri:
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        assert [(await cri.status(one)).exit_code for one in made] == [137, 137]
        assert not any(map(_is_alive, pids)) and machine.cgroups() == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_half_made_pod_is_collected_with_its_processes(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod, _, pids = await _pod_of_two(cri)
    place = Path(engine.pod_directory(machine.host, pod))
    (place / "vm.json").unlink()
    (place / "state.json").unlink()
    async with machine.daemon() as cri:
        assert (await cri("ListPodSandbox")).items == []
        assert not any(map(_is_alive, pids)) and machine.left_over() == []


async def test_pods_on_the_host_and_in_vms_live_side_by_side(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        on_host, in_vm = await run_pod(cri, options(network=NODE)), await cri.pod("vm")
        kinds = {}
        for pod in (on_host, in_vm):
            info = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
            kinds[pod] = json.loads(info)["vm"]["hypervisor"]
        assert kinds == {on_host: "host", in_vm: "qemu"}
        for pod in (on_host, in_vm):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == [] and all(guest.join(2) for guest in machine.fake.guests.values())


@pytest.mark.parametrize(
    ("allow", "wanted", "fields", "said"),
    [
        ((), options(network=NODE), {}, "the host's network namespace, which a pod in its own VM can't have"),
        ((), options(ipc=NODE), {}, "host_pods.allow in clearpod's configuration leaves it out"),
        (("network",), options(network=NODE, pid=NODE), {}, "the host's pid namespace"),
        (("network",), options(network=NODE), {"sysctls": {"net.ipv4.ip_forward": "0"}}, "for the whole host"),
        (("pid",), options(pid=NODE), {"sysctls": {"vm.swappiness": "1"}}, "for the whole host"),
    ],
)
async def test_what_is_not_allowed_is_refused(
    machine: HostWorld, allow: tuple[str, ...], wanted: pb.NamespaceOption, fields: dict[str, Any], said: str
) -> None:
    machine.allow(*allow)
    async with machine.daemon() as cri:
        linux = pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=wanted), **fields
        )
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(linux=linux))
        assert code == "INVALID_ARGUMENT" and said in sentence
    assert not os.path.exists(f"{machine.config.run_dir}/pods") or machine.left_over() == []


async def test_a_privileged_pod_needs_a_word_of_its_own(machine: HostWorld) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(network=NODE), privileged=True)
    async with machine.daemon() as cri:
        config = cri.sandbox(linux=pb.LinuxPodSandboxConfig(security_context=context))
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "INVALID_ARGUMENT" and "host_pods.privileged" in sentence


async def test_a_container_gets_no_namespace_that_its_sandbox_has_not(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod = await run_pod(cri, options(network=NODE))
        context = pb.LinuxContainerSecurityContext(namespace_options=options(network=NODE, pid=NODE))
        config = cri.config("true", linux=pb.LinuxContainerConfig(security_context=context))
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        assert code == "INVALID_ARGUMENT" and "the host's pid namespace" in sentence
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_without_crun_such_a_pod_is_refused(machine: HostWorld) -> None:
    machine.host = machine.host._replace(host_pods=None)
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(network=NODE))
    async with machine.daemon() as cri:
        config = cri.sandbox(linux=pb.LinuxPodSandboxConfig(security_context=context))
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "NOT_FOUND" and "clearpod check" in sentence


def test_the_agent_alone_changes_nothing(guest_dir: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    for words in ([], ["--directory=/nowhere"], ["--directory=relative", "--cgroup=/x", "--crun=/x"]):
        done = subprocess.run([guest_dir / "agent", *words], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1 and "not PID 1, and the word" in done.stderr
    assert Path("/proc/self/mountinfo").read_text() == before
