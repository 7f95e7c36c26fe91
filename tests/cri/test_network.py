# SPDX-License-Identifier: Apache-2.0
"""The pods' network over the CRI: with fake guests and plugins, then real VMs on a real bridge."""

import asyncio
import hashlib
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc import aio

from cri.config import Config
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from stage1 import engine
from stage1.guest import messages
from stage1.linux.host import which
from stage1.net import attach
from tests.fakes import places
from tests.fakes.cni import FakeCni
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist, outer_net
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking

from . import test_recovery as recovery
from .conftest import Client, CopyingNode, Registered, VmWorld, World, end

PING_S = 5


@pytest.fixture
def cni(world: World) -> FakeCni:
    """Fake plugins that the world's daemons use."""
    made = FakeCni(world.root / "cni")
    world.host = world.host._replace(network=made.settings)
    return made


async def network(cri: Client) -> tuple[bool, str, str]:
    """NetworkReady with reason and sentence."""
    conditions = (await cri("Status")).status.conditions
    (result,) = [(one.status, one.reason, one.message) for one in conditions if one.type == "NetworkReady"]
    return result


async def addresses(cri: Client, pod: str) -> tuple[str, ...]:
    output = (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network
    return (output.ip, *(one.ip for one in output.additional_ips))


async def test_network_ready_follows_the_configuration(world: World, cni: FakeCni) -> None:
    (file,) = (cni.root / "net.d").iterdir()
    text = file.read_text()
    async with world.daemon() as cri:
        assert await network(cri) == (True, "", "")
        file.write_text("{")
        is_ready, reason, message = await network(cri)
        assert (is_ready, reason) == (False, "NetworkPluginNotReady") and f"{file} is not JSON" in message
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox())
        assert code == "INVALID_ARGUMENT" and f"{file} is not JSON" in sentence
        file.unlink()
        assert "no CNI configuration" in (await network(cri))[2]
        assert await addresses(cri, await cri.pod("alone")) == ("",)
        file.write_text(text)
        assert (await network(cri))[0]


async def test_the_guest_the_files_and_the_status_have_the_pods_addresses(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", hostname="web-0")
        assert await addresses(cri, pod) == ("10.9.0.5", "fd09::5")
        directory = f"{world.config.run_dir}/pods/{pod}"
        asked = [one for guest in world.vmm.guests.values() for one in guest.asked]
        (told,) = [one for one in asked if isinstance(one, messages.Configure)]
        eth0 = next(one for one in told.interfaces if one.name == "eth0")
        assert (eth0.mtu, eth0.addresses) == (1450, ("10.9.0.5/24", "fd09::5/64"))
        assert told.routes == (messages.Route("0.0.0.0/0", "10.9.0.1", "eth0"),)
        assert told.neighbours == (messages.Neighbour("10.9.0.1", "02:00:00:00:00:01", "eth0"),)
        hosts = Path(f"{directory}/share/volumes/pod/hosts").read_text()
        assert "10.9.0.5\tweb-0\nfd09::5\tweb-0\n" in hosts
    async with world.daemon() as cri:
        assert await addresses(cri, pod) == ("10.9.0.5", "fd09::5"), "also after a restart"
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert await addresses(cri, pod) == ("",)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert cni.calls() == ["ADD first", "ADD second", "DEL second", "DEL first"]
    assert cni.left_over() == [] and world.left_over() == []


async def test_a_pod_whose_network_fails_is_rolled_back_and_can_be_retried(world: World, cni: FakeCni) -> None:
    cni.trouble("second", "ADD", 'echo \'{"code": 9, "msg": "no more"}\'; exit 1')
    async with world.daemon() as cri:
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox())
        assert code == "UNKNOWN" and "'second'" in sentence and "ADD: no more (code 9)" in sentence
        assert cni.left_over() == [] and world.left_over() == []
        cni.trouble("second", "ADD", "")
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod())


async def test_a_host_port_is_refused_while_another_pod_has_it(world: World, cni: FakeCni) -> None:
    mappings = [pb.PortMapping(container_port=80, host_port=8080)]
    async with world.daemon() as cri:
        both = [cri("RunPodSandbox", config=cri.sandbox(name, port_mappings=mappings)) for name in ("one", "two")]
        done = await asyncio.gather(*both, return_exceptions=True)
        (failure,) = [one for one in done if isinstance(one, aio.AioRpcError)]
        assert failure.code().name == "ALREADY_EXISTS"
        assert "tcp port 8080" in str(failure.details())
        (pod,) = [one.pod_sandbox_id for one in done if not isinstance(one, BaseException)]
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri.pod("three", port_mappings=mappings)


async def test_a_guest_that_does_not_boot_gives_its_addresses_back(world: World, cni: FakeCni) -> None:
    world.faults.silent = True
    async with world.daemon() as cri:
        await cri.refused("RunPodSandbox", config=cri.sandbox())
    assert cni.calls()[2:] == ["DEL second", "DEL first"]
    assert cni.left_over() == []


async def test_a_stop_whose_del_fails_can_be_called_again(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        cni.trouble("first", "DEL", "exit 1")
        for call in ("StopPodSandbox", "RemovePodSandbox"):
            assert (await cri.refused(call, pod_sandbox_id=pod))[0] == "UNKNOWN"
        cni.trouble("first", "DEL", "")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert cni.left_over() == [] and world.left_over() == []


async def test_addresses_go_back_while_the_guest_shuts_down_which_is_cut_off_by_then(
    world: World, cni: FakeCni
) -> None:
    vm = world.config.vm.but(react_timeout_s=60 * PATIENCE)
    world.config = world.config.but(vm=vm)
    world.faults.ignore = messages.Shutdown
    cni.trouble("first", "DEL", "nsenter --net=$CNI_NETNS ip -o link > $here/links")
    async with world.daemon() as cri:
        pod = cri.node.pods.get(await cri.pod())
        await cri.container(pod.id, "true")
        stop = asyncio.ensure_future(cri("StopPodSandbox", pod_sandbox_id=pod.id))
        async with asyncio.timeout(20 * PATIENCE):
            while cni.left_over():
                await asyncio.sleep(0.02)
        assert pod.vm is not None and pod.vm.alive() and not stop.done() and not pod.gone.is_set()
        links = (cni.root / "links").read_text().splitlines()
        taps = [line for line in links if ": tap" in line]
        assert taps and not any("UP" in tap for tap in taps), links
        pod.vm.kill()
        await stop
        assert pod.network is None and (await addresses(cri, pod.id)) == ("",)
        await cri("RemovePodSandbox", pod_sandbox_id=pod.id)
    assert world.left_over() == []


async def test_after_a_reboot_the_daemon_gives_back_what_no_pod_holds(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        kept, lost = await cri.pod("kept"), await cri.pod("lost")
    directory = f"{world.config.run_dir}/pods/{lost}"
    path = os.readlink(f"{directory}/cni.json")
    text = Path(path).read_text()
    engine.clean_up(directory)
    Path(path).write_text(text)
    cni.calls()
    async with world.daemon() as cri:
        assert cni.calls() == ["DEL second", "DEL first"] and not os.path.exists(path)
        assert await addresses(cri, kept) == ("10.9.0.5", "fd09::5")


@pytest.mark.parametrize("when", ["ADD first", "ADD second", "DEL second", "DEL first"])
async def test_a_daemon_that_dies_while_a_plugin_works_leaves_nothing_to_the_next(
    world: World, cni: FakeCni, when: str
) -> None:
    """The plugin kills its parent, once; it has its lease by then, and itself goes on."""
    verb, plugin = when.split()
    once = cni.root / "once"
    once.touch()
    cni.trouble(plugin, verb, f"rm {once} 2> /dev/null && kill -9 $PPID")
    pod = ""
    with recovery._process(world) as process:
        cri = await recovery._client(world)
        if verb == "DEL":
            pod = await cri.pod()
        with pytest.raises(aio.AioRpcError):
            await (cri("RemovePodSandbox", pod_sandbox_id=pod) if pod else cri.pod())
        assert process.wait(5 * PATIENCE) == -9 and not once.exists()
        await cri.close()
    with recovery._process(world):
        cri = await recovery._client(world)
        pod = pod or await cri.pod()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert cni.left_over() == [] and os.listdir(f"{world.config.run_dir}/pods") == []


@pytest.mark.parametrize("verb", ["RunPodSandbox", "StopPodSandbox"])
async def test_a_daemon_that_dies_between_any_two_steps_leaves_nothing_to_the_next(
    world: World, cni: FakeCni, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each seventh change of the machine, until there is none left; the network's own are all in test_killed.py."""
    begins, deaths = world.root / "die", 0
    while True:
        monkeypatch.setenv("DIE_AT", str(7 * deaths + 2))
        pod = ""
        with recovery._process(world) as process:
            cri = await recovery._client(world)
            if verb == "StopPodSandbox":
                pod = await cri.pod()
            begins.touch()
            try:
                await (cri("StopPodSandbox", pod_sandbox_id=pod) if pod else cri.pod())
                is_dead = False
            except aio.AioRpcError:
                is_dead = process.wait(5 * PATIENCE) == -9
            begins.unlink()
            await cri.close()
        monkeypatch.delenv("DIE_AT")
        with recovery._process(world):
            cri = await recovery._client(world)
            for one in (await cri("ListPodSandbox")).items:
                await cri("RemovePodSandbox", pod_sandbox_id=one.id)
            async with asyncio.timeout(20 * PATIENCE):  # what was half made goes in the background
                while cni.left_over() or os.listdir(f"{world.config.run_dir}/pods"):
                    await asyncio.sleep(0.05)
            await cri.close()
        if not is_dead:
            break
        deaths += 1
    assert deaths >= {"RunPodSandbox": 4, "StopPodSandbox": 1}[verb], f"only {deaths} deaths"


@contextmanager
def outer_world(sample: Registered, guest_dir: Path, *, copies: bool = True) -> Iterator[tuple[VmWorld, OuterNet]]:
    """Real VMs in a netns that stands for the host; the image is in the store before, while there is a registry. They
    are copies of templates unless they are to boot.
    """
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    store = ImageStore(sample.state_dir)
    pull_blocking(store, sample.reference, config=Config())
    store.close()
    with places.short_directory() as root, outer_net(Path(root, "host")) as net:
        made = VmWorld(Path(root), sample, guest_dir)
        made.host = made.host._replace(network=net.settings)
        made.make_node = CopyingNode if copies else Node
        try:
            yield made, net
        finally:
            end(made)


@pytest.fixture
def outer(sample: Registered, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with outer_world(sample, guest_dir) as made:
        yield made


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A directory with what busybox lacks."""
    if not which("musl-gcc"):
        pytest.skip("needs musl-gcc: apt install musl-tools")
    source = Path(__file__).with_name("udp_echo.c")
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", tmp_path / "udp_echo", source], check=True, timeout=60)
    return str(tmp_path)


async def _serving(cri: Client, name: str, *, tools: str, **fields: object) -> tuple[str, str]:
    """A pod with a web server and a UDP echo; its id and its container's."""
    pod = await cri.pod(name, **fields)
    script = (
        "mkdir -p /w; dd if=/dev/urandom of=/w/f bs=1M count=4 2> /dev/null; md5sum < /w/f > /w/sum; "
        "/tools/udp_echo & exec httpd -f -p 80 -h /w"
    )
    mounts = [pb.Mount(container_path="/tools", host_path=tools, readonly=True)]
    container = await cri.container(pod, "sh", "-c", script, mounts=mounts)
    await cri("StartContainer", container_id=container)
    return pod, container


async def _output(cri: Client, container: str, *command: str) -> str:
    reply = await cri("ExecSync", container_id=container, cmd=command, timeout=60 * PATIENCE, deadline_s=90)
    assert reply.exit_code == 0, (command, reply.stdout, reply.stderr)
    return str(reply.stdout.decode())


def _get(host: str, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{host}/{path}", timeout=60 * PATIENCE) as reply:
        return bytes(reply.read())


async def _until(attempt: Callable[[], bytes]) -> bytes:
    """What `attempt` returns as soon as it raises no OSError: the server may not listen yet."""
    async with asyncio.timeout(60 * PATIENCE):
        while True:
            try:
                return await asyncio.to_thread(attempt)
            except OSError:
                await asyncio.sleep(0.2)


def _echoed(address: str, data: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(30)
        udp.sendto(data, (address, 9))
        return udp.recv(65536)


async def _counts_what_it_sent(cri: Client, pod: str, container: str) -> None:
    """The pod's stats are what its guest says of eth0, within 5 percent."""
    network = (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.linux.network
    fields = (await _output(cri, container, "sh", "-c", "grep eth0: /proc/net/dev")).split()
    received, sent = int(fields[1]), int(fields[9])
    default = network.default_interface
    assert (default.name, default.rx_errors.value, default.tx_errors.value) == ("eth0", 0, 0)
    assert sent > 20 << 20
    assert 0.95 * sent <= default.tx_bytes.value <= sent
    assert 0.95 * received <= default.rx_bytes.value <= received


@pytest.mark.vm
@pytest.mark.parametrize("mtu", [1400, 9000])
async def test_two_pods_and_the_host_talk_to_each_other_and_nothing_stays(
    outer: tuple[VmWorld, OuterNet], tools: str, mtu: int
) -> None:
    world, net = outer
    net.configure(conflist(net.root, mtu=mtu))
    mapping = pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=8080)
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first", port_mappings=[mapping]))
        before = net.state()
        (one, server), (two, client) = await asyncio.gather(
            _serving(cri, "one", tools=tools, port_mappings=[mapping]), _serving(cri, "two", tools=tools)
        )
        v4, v6 = await addresses(cri, one)
        assert attach.read(f"{world.config.run_dir}/pods/{one}").ips == (v4, v6)  # type: ignore[union-attr]
        for host in (v4, f"[{v6}]", "127.0.0.1:8080", "10.77.0.1:8080"):
            total = (await _until(lambda host=host: _get(host, "sum"))).split()[0].decode()  # type: ignore[misc]
            data = await asyncio.to_thread(_get, host, "f")
            assert (len(data), hashlib.md5(data).hexdigest()) == (4 << 20, total), host
            if "127" not in host:
                got = await _output(cri, client, "sh", "-c", f"wget -qO- http://{host}/f | md5sum")
                assert got.split()[0] == total, host
        for address in (v4, v6, "10.77.0.1", "fd77::1"):
            assert "1 packets received" in await _output(cri, client, "ping", "-c1", f"-W{PING_S}", address)
        payload = os.urandom(8192)
        for address in (v4, v6):
            assert await asyncio.to_thread(_echoed, address, payload) == payload
        await _counts_what_it_sent(cri, one, server)
        assert f"mtu {mtu}" in await _output(cri, server, "ip", "addr", "show", "eth0")
        for pod in (one, two):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert net.state() == before
    assert world.left_over() == []
    assert not any(os.path.exists(f"/run/netns/clearpod-{pod}") for pod in (one, two))
