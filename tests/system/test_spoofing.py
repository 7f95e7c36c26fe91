# SPDX-License-Identifier: Apache-2.0
"""What a hostile guest does to its neighbours on a bridge of real CNI plugins: to the host and another pod's kernel.

Each attack is made twice: by a pod that may do it, which shows that it works, and by one that may not. The guest is
this test, at the end of the tap where a hypervisor is.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from stage1.linux import namespace, process
from stage1.net import attach, pool_slot
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from tests.fakes import frames as f
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE

GATEWAY, GATEWAY6, MANY = "10.77.0.1", "fd77::1", "ff02::1"
ROUTER = bytes((64, 0, 7, 8)) + bytes(8)
"""What a router says of itself: packets live for 64 hops, and it serves for half an hour."""


class Side(NamedTuple):
    """A pod's device."""

    mac: str
    v4: str
    v6: str
    tap: str
    netns: str

    @property
    def link_local(self) -> str:
        """What a kernel makes of the hardware address."""
        raw = f.mac(self.mac)
        return socket.inet_ntop(
            socket.AF_INET6, b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
        )


class Stage(NamedTuple):
    """The pod that attacks, of which `guest` is the guest's end; a neighbour with a kernel of its own, and sockets of
    the neighbour's and the host's that see datagrams.
    """

    me: Side
    victim: Side
    guest: int
    at_victim: dict[int, socket.socket]
    at_host: socket.socket

    def send(self, kind: int, payload: bytes, *, to: str = f.BROADCAST, source: str = "") -> None:
        """One frame."""
        os.write(self.guest, f.NO_OFFLOAD + f.ether(source or self.me.mac, kind, payload, to=to))

    def mark(self) -> bytes:
        """Send the host something new, as the pod may, which arrives after what was sent before."""
        me, mark = self.me.v4, os.urandom(8)
        self.send(f.IPV4, f.ipv4(me, GATEWAY, f.UDP, f.udp(me, GATEWAY, (9, 7777), mark)), to=hub())
        return mark

    def wait(self) -> None:
        """Until what was sent has arrived, if it does."""
        mark = self.mark()
        while self.at_host.recv(100) != mark:
            pass


def hub() -> str:
    """The hardware address of the bridge."""
    return output_of("ip", "-o", "link", "show", "ct0").split("link/ether ")[1].split()[0]


def output_of(*argv: str) -> str:
    return process.run(argv, timeout_s=10 * PATIENCE).stdout.decode()


def believes(address: str) -> str:
    """Which hardware address the host takes for that of `address`."""
    return output_of("ip", "neigh", "show", address, "dev", "ct0").partition("lladdr ")[2].partition(" ")[0]


def in_netns(where: Side, *argv: str) -> str:
    with namespace.inside_net(where.netns):
        return output_of(*argv)


def by_arp(stage: Stage) -> None:
    stage.send(f.ARP, f.arp(stage.me.mac, stage.victim.v4, GATEWAY, op=2), to=hub())


def by_request(stage: Stage) -> None:
    stage.send(f.ARP, f.arp(stage.me.mac, stage.victim.v4, GATEWAY))


def by_neighbour_discovery(stage: Stage) -> None:
    body = b"\x60\0\0\0" + f.ip(stage.victim.v6) + f.option(2, stage.me.mac)
    answer = f.icmpv6(stage.me.link_local, GATEWAY6, 136, body)
    stage.send(f.IPV6, f.ipv6(stage.me.link_local, GATEWAY6, f.ICMPV6, answer), to=hub())


def by_neighbour_discovery_behind_options(stage: Stage) -> None:
    body = b"\x60\0\0\0" + f.ip(stage.victim.v6) + f.option(2, stage.me.mac)
    answer = bytes((58, 0, 1, 4, 0, 0, 0, 0)) + f.icmpv6(stage.me.link_local, GATEWAY6, 136, body)
    stage.send(f.IPV6, f.ipv6(stage.me.link_local, GATEWAY6, 60, answer), to=hub())


def by_hardware_address(stage: Stage) -> None:
    stage.send(f.IPV4, f.ipv4(stage.me.v4, GATEWAY, f.UDP, bytes(8)), source=stage.victim.mac)


def as_router(stage: Stage) -> None:
    advertisement = f.icmpv6(stage.me.link_local, MANY, 134, ROUTER)
    stage.send(f.IPV6, f.ipv6(stage.me.link_local, MANY, f.ICMPV6, advertisement), to="33:33:00:00:00:01")


def as_dhcp(stage: Stage) -> None:
    to = "255.255.255.255"
    stage.send(f.IPV4, f.ipv4(stage.me.v4, to, f.UDP, f.udp(stage.me.v4, to, (67, 68), b"take this")))


def as_dhcpv6(stage: Stage) -> None:
    me, to = stage.me.link_local, stage.victim.v6
    stage.send(f.IPV6, f.ipv6(me, to, f.UDP, f.udp(me, to, (547, 546), b"take this")), to=stage.victim.mac)


def as_the_neighbour(stage: Stage) -> None:
    who = stage.victim.v4
    stage.send(f.IPV4, f.ipv4(who, GATEWAY, f.UDP, f.udp(who, GATEWAY, (9, 7777), b"as another")), to=hub())


def has_taken_v4(stage: Stage) -> bool:
    return believes(stage.victim.v4) == stage.me.mac


def has_taken_v6(stage: Stage) -> bool:
    return believes(stage.victim.v6) == stage.me.mac


def has_taken_the_port(stage: Stage) -> bool:
    """Whether the bridge sends what is for the neighbour to another port than before."""
    ports = {line.split()[0]: line.split()[2] for line in output_of("bridge", "fdb", "show", "br", "ct0").splitlines()}
    return ports[stage.victim.mac] == ports[stage.me.mac]


def is_router(stage: Stage) -> bool:
    return f"via {stage.me.link_local}" in in_netns(stage.victim, "ip", "-6", "route", "show", "default")


def hears(number: int) -> Callable[[Stage], bool]:
    def heard(stage: Stage) -> bool:
        stage.at_victim[number].settimeout(0)
        try:
            while stage.at_victim[number].recv(100) != b"take this":
                pass
        except BlockingIOError:
            return False
        return True

    return heard


def is_believed(stage: Stage) -> bool:
    """Whether the host hears it before what is sent now."""
    mark = stage.mark()
    seen = stage.at_host.recv(100)
    while seen != mark and stage.at_host.recv(100) != mark:
        pass
    return seen == b"as another"


ATTACKS = [
    (by_arp, has_taken_v4),
    (by_request, has_taken_v4),
    (by_neighbour_discovery, has_taken_v6),
    (by_neighbour_discovery_behind_options, has_taken_v6),
    (by_hardware_address, has_taken_the_port),
    (as_router, is_router),
    (as_dhcp, hears(68)),
    (as_dhcpv6, hears(546)),
    (as_the_neighbour, is_believed),
]


def bound(family: socket.AddressFamily, port: int, stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    made.settimeout(20)
    made.bind(("", port))
    return made


def greet(address: str, port: int, heard: socket.socket) -> None:
    """The host sends to a neighbour, so it knows its hardware address. What it sends is lost as long as it asks whether
    anybody has its own.
    """
    heard.settimeout(0.3)
    with socket.socket(heard.family, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"hello", (address, port))
            try:
                assert heard.recv(100) == b"hello"
                return
            except TimeoutError:
                pass
    raise AssertionError(f"{address} does not hear the host: {output_of('ip', 'neigh')}")


def write(path: str, text: str) -> None:
    """Into a file of /proc/sys, which shows the current netns."""
    with open(f"/proc/sys/net/{path}", "w") as file:
        file.write(text)


def attached(
    outer: OuterNet, stack: ExitStack, *, is_prewarmed: bool = False, with_taps: bool = True, **fields: bool
) -> Side:
    pod = Pod(os.urandom(32).hex(), "web", **fields)  # type: ignore[arg-type]
    directory = f"{outer.root}/{pod.id}"
    os.mkdir(directory)
    stack.callback(attach.detach, directory)
    join = None
    if is_prewarmed:
        pool_slot.prepare(pod.id, directory, settings=outer.settings)
        join = lambda is_held: pool_slot.join(is_held, is_free=pod.allow_spoofing)  # noqa: E731
    seen = attach.attach(pod, directory, settings=outer.settings, join=join, with_taps=with_taps)
    assert seen is not None
    if is_prewarmed:
        attach.note(directory, seen)
    (eth0,) = seen.interfaces
    v4, v6 = (address.partition("/")[0] for address in eth0.addresses)
    return Side(eth0.mac, v4, v6, eth0.tap, netns_path(pod.id))


@pytest.fixture
def make_stage(outer: OuterNet) -> Iterator[Callable[..., Stage]]:
    with ExitStack() as stack:
        at_host = bound(socket.AF_INET, 7777, stack)
        write("ipv6/conf/default/accept_dad", "0")

        def make(**options: bool) -> Stage:
            victim = attached(outer, stack, with_taps=False)
            me = attached(outer, stack, **options)
            with namespace.inside_net(victim.netns):
                at_victim = {68: bound(socket.AF_INET, 68, stack), 546: bound(socket.AF_INET6, 546, stack)}
            with namespace.inside_net(me.netns):
                guest = stack.enter_context(f.guest_end(me.tap))
            write("ipv4/neigh/ct0/locktime", "0")
            greet(victim.v4, 68, at_victim[68])
            greet(victim.v6, 546, at_victim[546])
            made = Stage(me, victim, guest, at_victim, at_host)
            made.wait()
            assert (believes(victim.v4), believes(victim.v6)) == (victim.mac, victim.mac)
            return made

        yield make


@pytest.mark.parametrize("is_prewarmed", [False, True], ids=["cold", "pool"])
@pytest.mark.parametrize("attack, works", ATTACKS, ids=lambda one: one.__name__)
def test_an_attack_works_for_a_pod_that_may_spoof_and_for_no_other(
    make_stage: Callable[..., Stage],
    attack: Callable[[Stage], None],
    works: Callable[[Stage], bool],
    is_prewarmed: bool,
) -> None:
    for may_spoof in (True, False):
        stage = make_stage(is_prewarmed=is_prewarmed, allow_spoofing=may_spoof)
        attack(stage)
        if works is not is_believed:
            stage.wait()
        done, end = works(stage), time.monotonic() + 20 * PATIENCE
        while may_spoof and not done and time.monotonic() < end:
            done = works(stage)
        assert done == may_spoof
