# SPDX-License-Identifier: Apache-2.0
"""A limit of the new neighbours that a pod makes the host look for, in a table of nf_tables of the host's netns.

The kernel has one table of neighbours for all devices and namespaces, with a place for each address that it looks for,
also where nobody answers. So pods are limited in new next hops, not in destinations: what goes by one router is one.
Called by attach, and by the daemon for all of its pods (decisions/0537). Changes nothing in the pod's netns, and is not
the filter of what a pod may send as its own (`own`).
"""

import errno
import struct

from stage1.errors import KernelError, PodError
from stage1.linux import nft
from stage1.linux.libc import Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stage1.net.record import Record

TABLE = "clearpod"
PODS = "pods"
_BUDGET, _SOURCES = "budget", "sources"
_ASKED, _SEEN = {nft.IPV4: "asked4", nft.IPV6: "asked6"}, {nft.IPV4: "seen4", nft.IPV6: "seen6"}
_POD = nft.limit(per_s=8, burst=64)
"""New next hops of a pod. With those below, of which the kernel looks for each 3 s longer, they are 150."""
_ALL = {nft.FORWARD: nft.limit(per_s=60, burst=240), nft.LOCAL_IN: nft.limit(per_s=20, burst=100)}
"""Those of all pods: with those below 720 and 160 of the 1024 that hosts keep."""
_ASKED_S, _KEPT_S = 5, 60
"""How long a next hop is not new, and one that has sent packets, since the last. A budget is full again after 8 s."""
_MAC, _AFTER_MAC = 8, 10
"""Registers. By the sender's hardware address a pod is known, since its filter lets it send with no other one."""
_NEXT_HOP = {nft.IPV4: nft.NEXT_HOP4, nft.IPV6: nft.NEXT_HOP6}
_SENDER = nft.payload(nft.LINK, offset=6, length=6, register=_MAC)
_SOURCE = {
    nft.IPV4: nft.payload(nft.NETWORK, offset=12, length=4, register=_AFTER_MAC),
    nft.IPV6: nft.payload(nft.NETWORK, offset=8, length=16, register=_AFTER_MAC),
}
_ETHERNET = struct.pack("=H", 1)
_PASS, _DROP = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
_PRIORITY = -150


def add(macs: "Iterable[str]") -> str:
    """Limit the pods whose devices have these hardware addresses; idempotent. Return what prevents it: a host without
    nf_tables has pods without this limit.
    """
    if not (keys := _keys(macs)):
        return ""
    try:
        with nft.Nftables() as socket:
            _commit(socket, nft.elements(TABLE, PODS, keys))
    except PodError as error:
        return f"pods are not kept from filling the host's table of neighbours: {error}"
    return ""


def _commit(socket: nft.Nftables, message: nft.Message) -> None:
    """Commit this message, after the table is made if it is missing; another process may make it at the same time."""
    try:
        socket.commit((message,), what=f"table {TABLE}")
    except Missing:
        try:
            socket.commit((*_table(), message), what=f"table {TABLE}")
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            socket.commit((message,), what=f"table {TABLE}")


def remove(macs: "Iterable[str]") -> None:
    """Forget the pods with these devices, as far as they are known. Best-effort. It takes some 10 ms, in which the
    kernel waits for all processors.
    """
    for key in _keys(macs):
        try:
            with nft.Nftables() as socket:
                socket.commit((nft.elements(TABLE, PODS, (key,), is_removal=True),), what=f"table {TABLE}")
        except PodError:
            continue


def remove_unused() -> None:
    """Remove the table if no pod of anybody's is in it. Best-effort: who adds a pod meanwhile keeps it."""
    try:
        with nft.Nftables() as socket:
            generation = socket.generation(what=f"table {TABLE}")
            if socket.is_empty(TABLE, PODS, what=f"table {TABLE}"):
                socket.commit((nft.table_removal(TABLE),), what=f"table {TABLE}", generation=generation)
    except PodError:
        pass


def of(known: "Record") -> list[str]:
    """The hardware addresses of the devices of a pod with this record."""
    return [one.mac for one in known.seen.interfaces if one.mac] if known.seen else []


def _keys(macs: "Iterable[str]") -> list[bytes]:
    keys = []
    for text in macs:
        try:
            keys.append(bytes.fromhex(text.replace(":", "")))
        except ValueError:
            continue
    return [key for key in keys if len(key) == 6]


def _table() -> "Iterator[nft.Message]":
    """The table that `nft list table inet clearpod` shows. Another version of these rules needs another name."""
    yield nft.table(TABLE)
    mac, address = nft.MAC_KEY, {nft.IPV4: nft.IPV4_KEY, nft.IPV6: nft.IPV6_KEY}
    yield nft.lookup_table(TABLE, PODS, key=(mac,), number=1)
    yield nft.lookup_table(TABLE, _BUDGET, key=(mac,), number=2, expires_s=_KEPT_S)
    yield nft.lookup_table(TABLE, _SOURCES, key=(mac, nft.IPV6_KEY), number=3, expires_s=_KEPT_S)
    for family, key in address.items():
        yield nft.lookup_table(TABLE, _ASKED[family], key=(key,), number=10 + family, expires_s=_ASKED_S)
        yield nft.lookup_table(TABLE, _SEEN[family], key=(key,), number=20 + family, expires_s=_KEPT_S)
    yield from _forward()
    yield from _input()


def _forward() -> "Iterator[nft.Message]":
    """Forwarded packets: who sends is there; where a pod sends next counts if it is new, and not known to be there."""
    yield nft.chain(TABLE, "forward", hook=nft.FORWARD, priority=_PRIORITY)
    yield nft.rule(TABLE, "forward", nft.meta(nft.OUTPUT_TYPE, _ETHERNET, is_not=True), _PASS)
    for family, seen in _SEEN.items():
        source = nft.meta(nft.FAMILY, bytes([family])) + _SOURCE[family]
        yield nft.rule(TABLE, "forward", source, nft.change_set(seen, nft.UPDATE, register=_AFTER_MAC))
    yield nft.rule(TABLE, "forward", _SENDER, nft.matches(PODS, register=_MAC, is_not=True), _PASS)
    hops = {
        family: nft.meta(nft.FAMILY, bytes([family])) + nft.route(key, register=_AFTER_MAC)
        for family, key in _NEXT_HOP.items()
    }
    for family, hop in hops.items():
        for name in (_SEEN[family], _ASKED[family]):
            yield nft.rule(TABLE, "forward", hop, nft.matches(name, register=_AFTER_MAC), _PASS)
    yield from _drops("forward", nft.FORWARD)
    for family, hop in hops.items():
        yield nft.rule(TABLE, "forward", hop, nft.change_set(_ASKED[family], nft.ADD, register=_AFTER_MAC))


def _input() -> "Iterator[nft.Message]":
    """Received packets of IPv6 count by source, of which the host learns: the tap's filter leaves the first half of it
    to pods without an address of IPv6.
    """
    yield nft.chain(TABLE, "input", hook=nft.LOCAL_IN, priority=_PRIORITY)
    yield nft.rule(TABLE, "input", nft.meta(nft.FAMILY, bytes([nft.IPV6]), is_not=True), _PASS)
    key = _SENDER + _SOURCE[nft.IPV6]
    yield nft.rule(TABLE, "input", _SENDER, nft.matches(PODS, register=_MAC, is_not=True), _PASS)
    yield nft.rule(TABLE, "input", key, nft.matches(_SOURCES, register=_MAC), _PASS)
    yield from _drops("input", nft.LOCAL_IN)
    yield nft.rule(TABLE, "input", key, nft.change_set(_SOURCES, nft.ADD, register=_MAC))


def _drops(chain: str, hook: int) -> "Iterator[nft.Message]":
    of_pod = nft.change_set(_BUDGET, nft.UPDATE, register=_MAC, excess=_POD)
    yield nft.rule(TABLE, chain, _SENDER, of_pod, _DROP)
    yield nft.rule(TABLE, chain, nft.over(_ALL[hook]), _DROP)
