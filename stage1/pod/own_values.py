# SPDX-License-Identifier: Apache-2.0
"""The values of its pod that a kernel out of an image gets. Called by `own` and by `own_command_line`, which writes
them. Pure.
"""

from typing import NamedTuple

from stage1.pod.network import PodNetwork

OWN_INIT, OWN_INIT_VALUES = ".clearpod/init", ".clearpod/carried"
"""Files that an initrd gets (stage1/rootfs/own_initrd.py): the first program, images/own-init, and what it reads."""


class Address(NamedTuple):
    """The first IPv4 address of a pod; `gateway` and `dns` may be empty."""

    ip: str
    prefix: int
    gateway: str = ""
    dns: str = ""

    @property
    def mask(self) -> str:
        """The network mask in the form 255.255.0.0."""
        bits = (1 << 32) - (1 << 32 - self.prefix)
        return ".".join(str(bits >> shift & 0xFF) for shift in (24, 16, 8, 0))


def address(network: PodNetwork | None) -> Address | None:
    """Return the IPv4 address of the pod's first device; None without one."""
    first = network.interfaces[0] if network and network.interfaces else None
    for text in first.addresses if first else ():
        ip, _, prefix = text.partition("/")
        if ":" in ip:
            continue
        assert network and first
        routes = (one for one in network.routes if one.destination == "0.0.0.0/0" and one.device == first.name)
        gateway = next((one.gateway for one in routes), "")
        return Address(ip, int(prefix or 32), gateway, next((one for one in network.dns_servers if ":" not in one), ""))
    return None


class Values(NamedTuple):
    """The kernel's parameters beyond its image's labels: the pod's address, if it has one, the arguments, as a list or
    as the text of a label, and the environment's variables NAME=VALUE; `is_carried`: these come by the initrd.
    """

    at: Address | None = None
    arguments: tuple[str, ...] = ()
    text: str = ""
    hostname: str = ""
    environment: tuple[str, ...] = ()
    is_carried: bool = False


class Asked(NamedTuple):
    """What a pod asks for: arguments, which replace those of the image if there are any, and its environment,
    NAME=VALUE.
    """

    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


class Carried(NamedTuple):
    """Values that come by the initrd, since no command line can have them: the program that Linux was to start, its
    arguments if they are not on the line, and the environment.
    """

    program: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]

    @property
    def data(self) -> bytes:
        """The content of the file `OWN_INIT_VALUES`: texts, each ended by a zero; the first byte of a text is
        its kind.
        """
        texts = [f"P{self.program}", *(f"A{one}" for one in self.arguments), *(f"E{one}" for one in self.environment)]
        return "".join(f"{one}\0" for one in texts).encode(errors="surrogateescape")


class Line(NamedTuple):
    """A kernel's command line, and what its initrd has to carry, if anything."""

    text: str
    carried: Carried | None = None
