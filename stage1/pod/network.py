# SPDX-License-Identifier: Apache-2.0
"""A pod's network as values: the guest's settings, and the values that commands show. Pure.

Made by `stage1.net` from the results of the CNI plugins, kept in the pod's record, translated into the agent's
Configure.
"""

from typing import NamedTuple

WAITING_MAC = "02:63:6c:70:6f:64"
"""Of the device that a guest has before it knows its pod, or of the first one."""


def waiting_mac(number: int) -> str:
    """Return the MAC address of the device `number`, from 0, of a guest before it knows its pod."""
    return f"{WAITING_MAC[:-2]}{int(WAITING_MAC[-2:], 16) + number:02x}"


class Interface(NamedTuple):
    """A network device of the guest. `addresses` carry their prefix length; `tap` is its other end on the host."""

    name: str
    mac: str
    mtu: int = 0
    addresses: tuple[str, ...] = ()
    tap: str = ""


class Route(NamedTuple):
    """`destination` is a prefix, 0.0.0.0/0 or ::/0 for the default; an empty gateway is on link.

    `metric` decides among routes to the same destination; `mtu` and `advmss` are bytes; 0 is the kernel's choice.
    """

    destination: str
    gateway: str
    device: str
    metric: int = 0
    mtu: int = 0
    advmss: int = 0


class Neighbour(NamedTuple):
    """A permanent entry of the neighbour table."""

    address: str
    mac: str
    device: str


class PodNetwork(NamedTuple):
    """All of it. `ips` are the pod's addresses for people and for kubelet, the first one is the primary.

    `networks` are the names of the networks of eth0, eth1 and so on.
    """

    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    ips: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
