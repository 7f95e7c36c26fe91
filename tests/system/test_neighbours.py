# SPDX-License-Identifier: Apache-2.0
"""A guest that sends packets to thousands of addresses that nobody has: how many entries that makes in the host's table
of neighbours, and who is reached meanwhile. With real CNI plugins, a real tap and real packets; the guest is this test.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from stage1 import garbage
from stage1.engine import Host
from stage1.errors import KernelError
from stage1.linux import namespace, nft
from stage1.linux.libc import Missing
from stage1.net import attach, neighbours
from stage1.vm.choose import Choice
from stage1.vm.hypervisors import ALL
from tests.fakes import frames as f
from tests.fakes.outer_net import OuterNet, conflist
from tests.fakes.patience import PATIENCE

from .test_spoofing import Side, Stage, attached, bound, greet, hub, make_stage, output_of, write

__all__ = ["make_stage"]

CHOICE = Choice(ALL[0], "tcg", "", "", ())
CLIENT = "02:00:00:00:99:01"
EXCLUSIVE, SO_RCVBUFFORCE = 0x200, 33
MANY, SOME, MOST = 3000, 400, 90
"""Packets of a flood, and of one that shows what is prevented: other tests use the same table. Entries that a flood may
make: a pod's burst, and 8 in each second that it lasts.
"""


def ipam(*ranges: str) -> dict[str, Any]:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    return {"type": "host-local", "ranges": [[{"subnet": one}] for one in ranges], "routes": routes}


def configure(outer: OuterNet, *ranges: str, **plugin: Any) -> None:
    """The usual network, with other subnets or another plugin."""
    document = conflist(outer.root)
    first = document["plugins"][0]
    document["plugins"][0] = {**first, **plugin, "ipam": {**first["ipam"], **ipam(*ranges)}}
    outer.configure(document)


def forwards() -> None:
    write("ipv4/ip_forward", "1")
    write("ipv6/conf/all/forwarding", "1")


def entries(family: str, device: str) -> int:
    return len(output_of("ip", family, "neigh", "show", "nud", "all", "dev", device).splitlines())


def v6_of(prefix: str) -> Callable[[int], str]:
    return lambda number: socket.inet_ntop(socket.AF_INET6, f.ip(prefix)[:8] + (0x10000 + number).to_bytes(8, "big"))


def v4_of(prefix: str) -> Callable[[int], str]:
    return lambda number: f"{prefix}.{4 + number // 250}.{1 + number % 250}"


def datagram(source: str, to: str, *, port: int = 7) -> bytes:
    packet = f.ipv6 if ":" in to else f.ipv4
    return packet(source, to, f.UDP, f.udp(source, to, (9, port), b"anybody"))


def flood(stage: Stage, addresses: Callable[[int], str], count: int = MANY) -> float:
    """Send to many addresses by way of the gateway; how many seconds that took."""
    begin, to = time.monotonic(), hub()
    for number in range(count):
        address = addresses(number)
        source = stage.me.v6 if ":" in address else stage.me.v4
        stage.send(f.IPV6 if ":" in address else f.IPV4, datagram(source, address), to=to)
    stage.wait()
    return time.monotonic() - begin


def allowed(seconds: float) -> int:
    return MOST + int(8 * seconds)


FLOODS = [
    ("-6", "ct0", v6_of("fd77::")),
    ("-4", "ct0", v4_of("10.77")),
    ("-6", "lan", v6_of("fd99::")),
    ("-4", "lan", v4_of("10.99")),
]


@pytest.mark.parametrize("family, device, addresses", FLOODS, ids=["own-v6", "own-v4", "lan-v6", "lan-v4"])
def test_addresses_that_nobody_has_fill_no_table(
    outer: OuterNet, make_stage: Callable[..., Stage], family: str, device: str, addresses: Callable[[int], str]
) -> None:
    """Neither of the pod's own subnet nor of another one of the host's links. Without the limit they do."""
    configure(outer, "10.77.0.0/16", "fd77::/64")
    with lan():
        for is_limited in (False, True):
            stage = make_stage(is_prewarmed=is_limited)
            forwards()
            if not is_limited:
                neighbours.remove([stage.me.mac, stage.victim.mac])
            output_of("ip", family, "neigh", "flush", "dev", device)
            before = entries(family, device)
            took = flood(stage, addresses, MANY if is_limited else SOME)
            new = entries(family, device) - before
            assert (40 < new <= allowed(took)) if is_limited else new > allowed(took), (new, took)
            assert is_reached(stage)
            output_of("ip", family, "neigh", "flush", "dev", device)


class lan:
    """A device with large subnets and nobody on them, up as long as the block."""

    def __enter__(self) -> None:
        output_of("ip", "link", "add", "lan", "type", "veth", "peer", "name", "lan2")
        for name in ("lan", "lan2"):
            output_of("ip", "link", "set", name, "up")
        output_of("ip", "addr", "add", "10.99.0.1/16", "dev", "lan")
        output_of("ip", "addr", "add", "fd99::1/64", "dev", "lan", "nodad")

    def __exit__(self, *_: object) -> None:
        output_of("ip", "link", "del", "lan")


def is_reached(stage: Stage) -> bool:
    """Whether host, neighbour and pod reach each other in both families, though the pod is flooding."""
    for address, port in ((stage.victim.v4, 68), (stage.victim.v6, 546)):
        greet(address, port, stage.at_victim[port])
    stage.wait()
    pairs = ((stage.me.v4, stage.victim.v4), (stage.me.v6, stage.victim.v6))
    return all(hears(stage, source, address) for source, address in pairs)


def hears(stage: Stage, source: str, address: str) -> bool:
    """Whether datagrams of the pod reach its neighbour by way of the gateway, the latest of some that are repeated."""
    with ExitStack() as stack:
        with namespace.inside_net(stage.victim.netns):
            heard = bound(socket.AF_INET6 if ":" in address else socket.AF_INET, 7, stack)
        heard.settimeout(0.3)
        for _ in range(int(20 * PATIENCE)):
            stage.send(f.IPV6 if ":" in address else f.IPV4, datagram(source, address), to=hub())
            try:
                return heard.recv(100) == b"anybody"
            except TimeoutError:
                continue
    return False


def test_what_a_router_forwards_counts_once(outer: OuterNet, make_stage: Callable[..., Stage]) -> None:
    """A pod that talks to thousands of addresses elsewhere is not limited."""
    configure(outer, "10.77.0.0/16", "fd77::/64")
    with lan(), ExitStack() as stack:
        path = f"/run/netns/t-router-{os.urandom(4).hex()}"
        namespace.make_net(path)
        stack.callback(namespace.remove_net, path)
        output_of("ip", "link", "set", "lan2", "netns", os.path.basename(path))
        with namespace.inside_net(path):
            for command in ("link set lo up", "link set lan2 up", "addr add 10.99.0.2/16 dev lan2",
                            "route add local 10.200.0.0/16 dev lo", "route add default via 10.99.0.1"):  # fmt: skip
                output_of("ip", *command.split())
            heard = bound(socket.AF_INET, 7, stack)
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        output_of("ip", "route", "add", "10.200.0.0/16", "via", "10.99.0.2")
        stage = make_stage()
        forwards()
        flood(stage, v4_of("10.200"))
        got = sum(1 for _ in received(heard))
        assert got > MANY * 0.9, got


def is_known(mac: str) -> bool:
    """Whether the table has a limit for the pod with this device."""
    key = bytes.fromhex(mac.replace(":", ""))
    kind, flags, body = nft.elements(neighbours.TABLE, neighbours.PODS, (key,))
    with nft.Nftables() as rules:
        try:
            rules.commit(((kind, flags | EXCLUSIVE, body),), what="elements")
        except KernelError as error:
            return error.errno == errno.EEXIST
    neighbours.remove([mac])
    return False


def flush() -> None:
    """As `nft flush ruleset` does."""
    with nft.Nftables() as rules:
        rules.commit((nft.table_removal(neighbours.TABLE),), what="table")


def received(heard: socket.socket) -> Iterator[bytes]:
    heard.settimeout(1)
    while True:
        try:
            yield heard.recv(100)
        except TimeoutError:
            return


def test_neighbours_that_answer_are_not_limited(outer: OuterNet, make_stage: Callable[..., Stage]) -> None:
    """More of them than a pod's burst: once each has answered, all are reached at once, for as long as they answer."""
    count, base = 100, v4_of("10.99")
    with lan(), ExitStack() as stack:
        path = f"/run/netns/t-lan-{os.urandom(4).hex()}"
        namespace.make_net(path)
        stack.callback(namespace.remove_net, path)
        output_of("ip", "link", "set", "lan2", "netns", os.path.basename(path))
        with namespace.inside_net(path):
            output_of("ip", "link", "set", "lan2", "up")
            for number in range(count):
                output_of("ip", "addr", "add", f"{base(number)}/16", "dev", "lan2")
            output_of("ip", "route", "add", "default", "via", "10.99.0.1")
        stage = make_stage()
        forwards()
        output_of("ip", "neigh", "replace", stage.me.v4, "lladdr", stage.me.mac, "dev", "ct0")
        end = time.monotonic() + 30 * PATIENCE
        while len(pinged(stage, [base(number) for number in range(count)])) < count:
            assert time.monotonic() < end
        time.sleep(6)  # longer than one that has not answered is known
        assert len(pinged(stage, [base(number) for number in range(count)])) == count


def test_a_server_answers_many_neighbours_that_begin(outer: OuterNet, make_stage: Callable[..., Stage]) -> None:
    """More at once than a pod may look for: who has sent a packet is there."""
    count, base = 300, v4_of("10.99")
    with lan(), ExitStack() as stack:
        stage = make_stage()
        forwards()
        wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        wire.bind(("lan2", 0))
        to = output_of("ip", "-o", "link", "show", "lan").split("link/ether ")[1].split()[0]
        for number in range(count):
            asked = datagram(base(number), stage.me.v4, port=53)
            wire.send(f.ether(CLIENT, f.IPV4, asked, to=to))
        time.sleep(0.2)
        before = entries("-4", "lan")
        for number in range(count):
            stage.send(f.IPV4, datagram(stage.me.v4, base(number), port=53), to=hub())
        stage.wait()
        assert entries("-4", "lan") - before == count
        output_of("ip", "neigh", "flush", "dev", "lan")


def pinged(stage: Stage, addresses: list[str]) -> set[str]:
    """Those that answer."""
    for address in addresses:
        stage.send(f.IPV4, f.ipv4(stage.me.v4, address, f.ICMP, f.icmp(8)), to=hub())
    answered, end = set[str](), time.monotonic() + 1
    while len(answered) < len(addresses) and time.monotonic() < end:
        if select.select([stage.guest], [], [], 0.2)[0]:
            frame = os.read(stage.guest, 2000)[len(f.NO_OFFLOAD) :]
            if frame[12:14] == b"\x08\0" and frame[23] == f.ICMP and frame[34] == 0:
                answered.add(socket.inet_ntoa(frame[26:30]))
    return answered


def test_a_point_to_point_network_works_and_fills_no_table(outer: OuterNet) -> None:
    """There packets to the own subnet go to the host as all others do, which has no such link."""
    configure(outer, "10.77.0.0/16", "fd77::/64", type="ptp")
    with ExitStack() as stack:
        write("ipv6/conf/default/accept_dad", "0")
        victim = attached(outer, stack, with_taps=False)
        me = attached(outer, stack)
        forwards()
        with namespace.inside_net(victim.netns):
            heard = bound(socket.AF_INET, 7, stack)
        with namespace.inside_net(me.netns):
            guest = stack.enter_context(f.guest_end(me.tap))
        (device,) = (line for line in output_of("ip", "-4", "route", "show", me.v4).split() if line.startswith("veth"))
        to = output_of("ip", "-o", "link", "show", device).split("link/ether ")[1].split()[0]
        for number in range(MANY):
            for address in (v4_of("10.77")(number), v6_of("fd77::")(number)):
                source = me.v6 if ":" in address else me.v4
                kind = f.IPV6 if ":" in address else f.IPV4
                os.write(guest, f.NO_OFFLOAD + f.ether(me.mac, kind, datagram(source, address), to=to))
        os.write(guest, f.NO_OFFLOAD + f.ether(me.mac, f.IPV4, datagram(me.v4, victim.v4), to=to))
        assert heard.recv(100) == b"anybody"
        assert entries("-6", device) + entries("-4", device) < 20


def test_invented_prefixes_fill_no_table(outer: OuterNet) -> None:
    """On a network of IPv4 a guest may take an address of IPv6 from any router: it can't be a thousand of them."""
    configure(outer, "10.77.0.0/16")
    with ExitStack() as stack:
        me = attached_v4(outer, stack)
        output_of("ip", "addr", "add", "fe80::77/64", "dev", "ct0", "nodad")
        with namespace.inside_net(me.netns):
            guest = stack.enter_context(f.guest_end(me.tap))
        iid, begin = f.ip(me.link_local)[8:], time.monotonic()
        before, to = entries("-6", "ct0"), hub()
        for number in range(MANY):
            source = socket.inet_ntop(socket.AF_INET6, bytes.fromhex("20010db8") + number.to_bytes(4, "big") + iid)
            body = bytes(4) + f.ip("fe80::77") + f.option(1, me.mac)
            asked = f.ipv6(source, "fe80::77", f.ICMPV6, f.icmpv6(source, "fe80::77", 135, body))
            os.write(guest, f.NO_OFFLOAD + f.ether(me.mac, f.IPV6, asked, to=to))
        time.sleep(0.3)
        assert entries("-6", "ct0") - before <= allowed(time.monotonic() - begin)


def attached_v4(outer: OuterNet, stack: ExitStack) -> Side:
    from stage1.net.settings import netns_path
    from stage1.pod.model import Pod

    pod = Pod(os.urandom(32).hex(), "web")
    directory = f"{outer.root}/{pod.id}"
    os.mkdir(directory)
    stack.callback(attach.detach, directory)
    seen = attach.attach(pod, directory, settings=outer.settings)
    assert seen is not None
    (eth0,) = seen.interfaces
    return Side(eth0.mac, eth0.addresses[0].partition("/")[0], "", eth0.tap, netns_path(pod.id))


def test_a_pod_is_limited_as_long_as_it_is_there_and_again_after_a_flush(outer: OuterNet) -> None:
    with ExitStack() as stack:
        me = attached(outer, stack)
        assert is_known(me.mac)
        flush()
        assert not is_known(me.mac)
        host = Host(f"{outer.root}/run", "", f"{outer.root}/state", CHOICE, network=outer.settings)
        assert garbage.networks(host) == []
        assert is_known(me.mac)
    assert not is_known(me.mac)


def is_there() -> bool:
    with nft.Nftables() as rules:
        try:
            rules.is_empty(neighbours.TABLE, neighbours.PODS, what="table")
        except Missing:
            return False
    return True


def test_the_table_goes_with_the_last_pod_and_not_before(outer: OuterNet) -> None:
    """In the next round of garbage collection, which the daemon makes at its end, too."""
    host = Host(f"{outer.root}/run", "", f"{outer.root}/state", CHOICE, network=outer.settings)
    with ExitStack() as stack:
        attached(outer, stack)
        with ExitStack() as others:
            attached(outer, others)
        neighbours.remove_unused()
        assert is_there()
        assert garbage.networks(host) == []
        assert is_there()
    assert is_there()
    assert garbage.networks(host) == []
    assert not is_there()
    neighbours.remove_unused()


def test_a_pod_that_comes_meanwhile_keeps_the_table(outer: OuterNet) -> None:
    mac = "02:00:00:00:00:01"
    assert neighbours.add([mac]) == ""
    neighbours.remove([mac])
    with nft.Nftables() as rules:
        generation = rules.generation(what="table")
        assert rules.is_empty(neighbours.TABLE, neighbours.PODS, what="table")
        assert neighbours.add([mac]) == ""
        with pytest.raises(KernelError) as caught:
            rules.commit((nft.table_removal(neighbours.TABLE),), what="table", generation=generation)
        assert caught.value.errno == errno.ERESTART
    assert is_known(mac)


def test_a_pod_that_is_not_known_keeps_no_other_one_from_being_removed(outer: OuterNet) -> None:
    macs = [f"02:00:00:00:00:{number:02x}" for number in range(1, 4)]
    neighbours.add([macs[0], macs[2]])
    neighbours.remove([macs[1], *macs])
    assert not any(map(is_known, macs))
