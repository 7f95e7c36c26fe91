# SPDX-License-Identifier: Apache-2.0
"""Real data through the pods' taps: two real VMs, the host, and another host that verifies every checksum."""

import asyncio
import json
import socket
import subprocess
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import namespace
from stage1.linux.host import which
from stage1.net import attach
from tests.fakes import net_counters, sctp_caller
from tests.fakes.far_host import FarHost, far_host, run_here
from tests.fakes.outer_net import OuterNet, conflist
from tests.fakes.patience import PATIENCE

from .conftest import VmWorld
from .net_rig import PORT, Served, build_probe, on_host, two_pods
from .test_network import outer

__all__ = ["outer"]

pytestmark = pytest.mark.vm

LARGE_MIB, SMALL_MIB = "100", "8"
MESSAGES = ("1000", "20")
"""Size and number of what goes over an association."""
GATEWAYS = ("10.77.0.1", "fd77::1")


@pytest.fixture
def probe(tmp_path: Path) -> str:
    """net_probe in a directory of its own, which pods mount."""
    if not which("musl-gcc"):
        pytest.skip("needs musl-gcc: apt install musl-tools")
    (tmp_path / "tools").mkdir()
    return build_probe(tmp_path / "tools")


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def page(host: str) -> str:
    with urllib.request.urlopen(f"http://{host}/f", timeout=60) as reply:
        return str(reply.read().decode()).strip()


async def per_packet(pod: str) -> dict[str, float]:
    """Bytes per packet on the pod's tap, by direction as the netns sees it."""
    output = json.loads(await on_host("ip", "-json", "-s", "-n", f"clearpod-{pod}", "link"))
    (tap,) = [one["stats64"] for one in output if one["ifname"].startswith("tap")]
    return {direction: tap[direction]["bytes"] / tap[direction]["packets"] for direction in ("rx", "tx")}


async def test_two_pods_and_the_host_move_100_mib_in_each_direction_over_both_families(
    outer: tuple[VmWorld, OuterNet], probe: str
) -> None:
    world, net = outer
    async with two_pods(world, net, probe=probe) as (one, two):
        seen = attach.read(f"{world.config.run_dir}/pods/{one.pod}")
        assert seen is not None and one.ips == seen.ips and [":" in ip for ip in one.ips] == [False, True]
        for ip in one.ips:
            assert "1 packets received" in await two.run("ping", "-c1", "-W5", ip)
            assert await asyncio.to_thread(page, bracketed(ip)) == "one"
            assert (await two.run("wget", "-qO-", f"http://{bracketed(ip)}/f")).strip() == "one"
            for direction in ("get", "put"):
                await on_host(probe, direction, ip, PORT, LARGE_MIB)
            await two.probe("get", ip, PORT, LARGE_MIB)
            await on_host(probe, "udp", ip, PORT, "8192", "10")
            await two.probe("udp", ip, PORT, "8192", "10")
        for ip in GATEWAYS:
            assert "1 packets received" in await two.run("ping", "-c1", "-W5", ip)
        assert min((await per_packet(one.pod)).values()) > 8000, "segmentation is left to the last device"
        for served in (one, two):
            assert net_counters.wrong_checksums(await served.counters()) == {}
        assert net_counters.wrong_checksums(net_counters.parse(await on_host(*net_counters.HERE))) == {}


async def test_what_leaves_a_pod_for_another_host_is_cut_to_the_mtu_and_has_the_right_checksums(
    outer: tuple[VmWorld, OuterNet], probe: str
) -> None:
    world, net = outer
    with far_host() as far:
        async with two_pods(world, net, probe=probe) as (one, _):
            for ip in one.ips:
                for direction in ("get", "put"):
                    await asyncio.to_thread(far.run, probe, direction, ip, PORT, SMALL_MIB)
                await asyncio.to_thread(far.run, probe, "udp", ip, PORT, "8192", "10")
            there, here = net_counters.parse(far.run(*net_counters.HERE)), await one.counters()
            assert there["TcpInSegs"] > 2 * int(SMALL_MIB) * (1 << 20) / 1400, "whole segments on the wire"
            for counted in (there, here):
                assert net_counters.wrong_checksums(counted) == {}
            far.send_with_a_wrong_checksum(one.ips[0], int(PORT))
            async with asyncio.timeout(60 * PATIENCE):
                while net_counters.wrong_checksums(await one.counters()) != {"UdpInCsumErrors": 1}:
                    await asyncio.sleep(0.1)


async def test_jumbo_frames_and_datagrams_arrive_whole(outer: tuple[VmWorld, OuterNet], probe: str) -> None:
    world, net = outer
    net.configure(conflist(net.root, mtu=9000))
    async with two_pods(world, net, probe=probe) as (one, two):
        assert "mtu 9000" in await two.run("ip", "addr", "show", "eth0")
        for ip in one.ips:
            assert "1 packets received" in await two.run("ping", "-c1", "-W5", "-s8900", ip)
            await two.probe("udp", ip, PORT, "8192", "10")
            await on_host(probe, "udp", ip, PORT, "8192", "10")
        counted = await one.counters()
        assert (counted["IpFragCreates"], counted["IpReasmReqds"], counted["Ip6ReasmReqds"]) == (0, 0, 0)
        for ip in one.ips:
            await two.probe("udp", ip, PORT, "60000", "10")
            await on_host(probe, "udp", ip, PORT, "60000", "10")
            await on_host(probe, "get", ip, PORT, SMALL_MIB)
            await two.probe("put", ip, PORT, SMALL_MIB)
        counted = await one.counters()
        assert counted["IpReasmOKs"] >= 20 and counted["Ip6ReasmOKs"] >= 20
        for served in (one, two):
            assert net_counters.wrong_checksums(await served.counters()) == {}


def published(host_port: int, host_ip: str = "", *, protocol: str = "TCP") -> pb.PortMapping:
    return pb.PortMapping(
        protocol=protocol,
        container_port=int(PORT),
        host_port=host_port,
        host_ip=host_ip,  # type: ignore[arg-type]
    )


async def from_everywhere(probe: str, far: FarHost, *, pods: tuple[Served, Served]) -> None:
    """TCP and UDP to port 8080 of every address that the host has, from wherever it can be reached."""
    one, two = pods
    commands = (("get", SMALL_MIB), ("put", SMALL_MIB), ("udp", "8192", "5"))
    for command, *amount in commands:
        for host in ("127.0.0.1", "::1", *GATEWAYS):
            await on_host(probe, command, host, "8080", *amount)
        for host in GATEWAYS:
            await two.probe(command, host, "8080", *amount)
            await one.probe(command, host, "8080", *amount)
        for host in ("192.0.2.1", "2001:db8::1"):
            await asyncio.to_thread(far.run, probe, command, host, "8080", *amount)


def host_speaks_sctp() -> bool:
    """Not needed to pass it on."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def call(probe: str, host: str, port: str, *, far: FarHost) -> None:
    """An association with a port of this host, from `far` or, for an address without one, from here."""
    with namespace.inside_net(far.path) if host in ("192.0.2.1", "2001:db8::1") else nullcontext():
        if host_speaks_sctp():
            run_here(probe, "sctp", host, port, *MESSAGES)
        else:
            sctp_caller.call(host, int(port))


async def test_sctp_goes_from_pod_to_pod_and_through_a_host_port(outer: tuple[VmWorld, OuterNet], probe: str) -> None:
    world, net = outer
    fields = {"port_mappings": [published(8080, protocol="SCTP")]}
    with far_host() as far:
        async with two_pods(world, net, probe=probe, **fields) as (one, two):
            for ip in one.ips:
                await two.probe("sctp", ip, PORT, *MESSAGES)
            for host in GATEWAYS:
                await two.probe("sctp", host, "8080", *MESSAGES)
                await one.probe("sctp", host, "8080", *MESSAGES)
            for host in ("127.0.0.1", *GATEWAYS, "192.0.2.1", "2001:db8::1"):
                await asyncio.to_thread(call, probe, host, "8080", far=far)


async def refused(probe: str, host: str, port: str) -> bool:
    ended = await asyncio.to_thread(
        subprocess.run, [probe, "get", host, port, "1"], capture_output=True, text=True, timeout=90
    )
    return "refused" in ended.stderr


async def test_a_host_port_is_reached_from_the_host_the_pods_and_other_hosts(
    outer: tuple[VmWorld, OuterNet], probe: str
) -> None:
    world, net = outer
    mappings = [
        published(8080),
        published(8080, protocol="UDP"),
        published(8081, "10.77.0.1"),
        published(8082, "::1"),
        published(8083, "127.0.0.1"),
    ]
    with far_host() as far:
        async with two_pods(world, net, probe=probe, port_mappings=mappings) as (one, two):
            await from_everywhere(probe, far, pods=(one, two))
            for host, port in (("10.77.0.1", "8081"), ("::1", "8082"), ("127.0.0.1", "8083")):
                await on_host(probe, "get", host, port, "1")
            for host, port in (("127.0.0.1", "8081"), ("127.0.0.1", "8082"), ("::1", "8083"), ("::1", "8081")):
                assert await refused(probe, host, port), (host, port)
            await two.probe("get", "10.77.0.1", "8081", "1")


def bits_per_s(message: str) -> float:
    """What net_probe's "BYTES NANOSECONDS" makes."""
    moved, took_ns = map(int, message.split())
    return moved * 8e9 / took_ns


SLOW_TIMES = 8
"""So often a machine may be too slow to reach the limit, so that nothing is shown."""


async def test_a_pods_annotations_limit_what_it_receives_and_sends(outer: tuple[VmWorld, OuterNet], probe: str) -> None:
    """A slow machine makes transfers slower, never faster; the other pod shows that it is not the machine."""
    world, net = outer
    net.configure(conflist(net.root, {"type": "bandwidth", "capabilities": {"bandwidth": True}}))
    limits = {"kubernetes.io/ingress-bandwidth": "16M", "kubernetes.io/egress-bandwidth": "8M"}
    async with two_pods(world, net, probe=probe, annotations=limits) as (limited, free):
        for direction, limit in (("put", 16e6), ("get", 8e6)):
            for _ in range(SLOW_TIMES):
                rate = bits_per_s(await on_host(probe, direction, limited.ips[0], PORT, "2"))
                other = bits_per_s(await on_host(probe, direction, free.ips[0], PORT, "2"))
                assert rate < 1.1 * limit, (direction, rate)
                if other > 2 * rate:
                    break
            assert other > 2 * rate, (direction, rate, other)
