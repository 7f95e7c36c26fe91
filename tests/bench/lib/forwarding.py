# SPDX-License-Identifier: Apache-2.0
"""The cost of the limit of new neighbours (docs/design/network.md) for each packet that the host forwards.

A sender sends small packets to a receiver, through a netns that plays the host. The call that sends a packet also
forwards and delivers it, so the sender's processor time is the whole cost. Called by network.py.
"""

import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from stage1.linux import namespace, process
from stage1.net import neighbours

PACKETS, TURNS, BYTES = 100_000, 9, 64
OTHER = "02:00:00:00:00:77"
"""The hardware address of a pod that is not the sender."""
SETUP = """ip link set lo up
ip link add to-a type veth peer name e netns {a}
ip link add to-b type veth peer name e netns {b}
ip addr add 10.1.0.1/24 dev to-a
ip addr add 10.2.0.1/24 dev to-b
ip link set to-a up
ip link set to-b up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
END = """ip addr add 10.{number}.0.2/24 dev e
ip link set e up
ip route add default via 10.{number}.0.1
"""


def measure() -> dict[str, Any]:
    """Nanoseconds of a packet without the table, of one of nobody's, and of a pod's; how much more, in turns."""
    samples: dict[str, list[float]] = {"without": [], "other": [], "pod": []}
    with _places() as (a, b, host), ExitStack() as stack:
        mac = _end(a, 1)
        _end(b, 2)
        with namespace.inside_net(b):
            sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sink.bind(("10.2.0.2", 9))
        with namespace.inside_net(a):
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.connect(("10.2.0.2", 9))
        _packet_ns(sender)
        for _ in range(TURNS):
            samples["without"].append(_packet_ns(sender))
            for name, limited in (("other", OTHER), ("pod", mac)):
                with _limited(host, limited):
                    samples[name].append(_packet_ns(sender))
    more = {
        name: [one - base for one, base in zip(of, samples["without"], strict=True)] for name, of in samples.items()
    }
    report = {f"{name}_ns": round(statistics.median(of)) for name, of in samples.items()}
    return report | {f"{name}_more_ns": round(statistics.median(of)) for name, of in more.items() if name != "without"}


@contextmanager
def _places() -> Iterator[list[str]]:
    """Network namespaces of a sender, a receiver and the host between them."""
    paths = [f"/run/netns/b-{os.getpid()}-{name}" for name in ("a", "b", "host")]
    with ExitStack() as stack:
        for path in paths:
            namespace.make_net(path)
            stack.callback(namespace.remove_net, path)
        a, b, host = paths
        _run(host, SETUP.format(a=os.path.basename(a), b=os.path.basename(b)))
        yield paths


def _end(path: str, number: int) -> str:
    """Configure the namespace's device; its hardware address."""
    return _run(path, END.format(number=number) + "ip -o link show e").partition("link/ether ")[2].split()[0]


def _run(path: str, script: str) -> str:
    with namespace.inside_net(path):
        ended = process.run(["sh", "-ec", script], timeout_s=60)
    if ended.code:
        raise RuntimeError(ended.stderr.decode())
    return ended.stdout.decode()


@contextmanager
def _limited(host: str, mac: str) -> Iterator[None]:
    with namespace.inside_net(host):
        if why := neighbours.add([mac]):
            raise RuntimeError(why)
    try:
        yield
    finally:
        with namespace.inside_net(host):
            neighbours.remove([mac])
            neighbours.remove_unused()


def _packet_ns(sender: socket.socket) -> float:
    data, send = bytes(BYTES), sender.send
    begun = time.process_time()
    for _ in range(PACKETS):
        send(data)
    return (time.process_time() - begun) / PACKETS * 1e9
