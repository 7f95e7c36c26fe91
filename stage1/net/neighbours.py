# SPDX-License-Identifier: Apache-2.0
"""The limit of new neighbours for a pod: rules in a table of nf_tables in the host's netns.

The kernel has one table of neighbours for all devices and namespaces, and an address takes a place in it even if nobody
answers. So pods are limited in new next hops, not in destinations: all that one router forwards is one next hop. Called
by attach, and by the daemon for all of its pods. Changes nothing in the pod's netns; the filter against spoofing is
`own`. docs/design/network.md has the reasons.
"""

import errno
import struct
from collections.abc import Iterable, Iterator

from stage1.errors import KernelError, PodError
from stage1.linux import nft
from stage1.linux import nft_rules as rules
from stage1.linux.libc import Missing
from stage1.net.record import Record

TABLE = "clearpod"
PODS = "pods"
"""The set of the hardware addresses of limited devices."""


def add(macs: Iterable[str]) -> str:
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
            socket.commit((*table(), message), what=f"table {TABLE}")
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            socket.commit((message,), what=f"table {TABLE}")


def remove(macs: Iterable[str]) -> None:
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


def of(known: Record) -> list[str]:
    """The hardware addresses of the devices of a pod with this record."""
    return [one.mac for one in known.seen.interfaces if one.mac] if known.seen else []


def _keys(macs: Iterable[str]) -> list[bytes]:
    keys = []
    for text in macs:
        try:
            keys.append(bytes.fromhex(text.replace(":", "")))
        except ValueError:
            continue
    return [key for key in keys if len(key) == 6]


# -- The table ---------------------------------------------------------------------------------------------------------


_BUDGET, _SOURCES = "budget", "sources"
_ASKED, _SEEN = {rules.IPV4: "asked4", rules.IPV6: "asked6"}, {rules.IPV4: "seen4", rules.IPV6: "seen6"}
_POD = rules.limit(per_s=8, burst=64)
"""New next hops of a pod. With those below, of which the kernel looks for each 3 s longer, they are 150."""
_ALL = {rules.FORWARD: rules.limit(per_s=60, burst=240), rules.LOCAL_IN: rules.limit(per_s=20, burst=100)}
"""Those of all pods: with those below 720 and 160 of the 1024 that hosts keep."""
_ASKED_S, _KEPT_S = 5, 60
"""How long a next hop is not new, and one that has sent packets, since the last. A budget is full again after 8 s."""
_MAC, _AFTER_MAC = 8, 10
"""Registers. By the sender's hardware address a pod is known, since its filter lets it send with no other one."""
_NEXT_HOP = {rules.IPV4: rules.NEXT_HOP4, rules.IPV6: rules.NEXT_HOP6}
_SENDER = rules.payload(rules.LINK, offset=6, length=6, register=_MAC)
_SOURCE = {
    rules.IPV4: rules.payload(rules.NETWORK, offset=12, length=4, register=_AFTER_MAC),
    rules.IPV6: rules.payload(rules.NETWORK, offset=8, length=16, register=_AFTER_MAC),
}
_ETHERNET = struct.pack("=H", 1)
_PASS, _DROP = rules.verdict(rules.ACCEPT), rules.verdict(rules.DROP)
_PRIORITY = -150


def table() -> Iterator[nft.Message]:
    """The table that `nft list table inet clearpod` shows. Another version of these rules needs another name."""
    yield nft.table(TABLE)
    mac, address = rules.MAC_KEY, {rules.IPV4: rules.IPV4_KEY, rules.IPV6: rules.IPV6_KEY}
    yield rules.lookup_table(TABLE, PODS, key=(mac,), number=1)
    yield rules.lookup_table(TABLE, _BUDGET, key=(mac,), number=2, expires_s=_KEPT_S)
    yield rules.lookup_table(TABLE, _SOURCES, key=(mac, rules.IPV6_KEY), number=3, expires_s=_KEPT_S)
    for family, key in address.items():
        yield rules.lookup_table(TABLE, _ASKED[family], key=(key,), number=10 + family, expires_s=_ASKED_S)
        yield rules.lookup_table(TABLE, _SEEN[family], key=(key,), number=20 + family, expires_s=_KEPT_S)
    yield from _forward()
    yield from _input()


def _forward() -> Iterator[nft.Message]:
    """Forwarded packets: who sends is there; where a pod sends next counts if it is new, and not known to be there."""
    yield rules.chain(TABLE, "forward", hook=rules.FORWARD, priority=_PRIORITY)
    yield rules.rule(TABLE, "forward", rules.meta(rules.OUTPUT_TYPE, _ETHERNET, is_not=True), _PASS)
    for family, seen in _SEEN.items():
        source = rules.meta(rules.FAMILY, bytes([family])) + _SOURCE[family]
        yield rules.rule(TABLE, "forward", source, rules.change_set(seen, rules.UPDATE, register=_AFTER_MAC))
    yield rules.rule(TABLE, "forward", _SENDER, rules.matches(PODS, register=_MAC, is_not=True), _PASS)
    hops = {
        family: rules.meta(rules.FAMILY, bytes([family])) + rules.route(key, register=_AFTER_MAC)
        for family, key in _NEXT_HOP.items()
    }
    for family, hop in hops.items():
        for name in (_SEEN[family], _ASKED[family]):
            yield rules.rule(TABLE, "forward", hop, rules.matches(name, register=_AFTER_MAC), _PASS)
    yield from _drops("forward", rules.FORWARD)
    for family, hop in hops.items():
        yield rules.rule(TABLE, "forward", hop, rules.change_set(_ASKED[family], rules.ADD, register=_AFTER_MAC))


def _input() -> Iterator[nft.Message]:
    """Received packets of IPv6 count by source, of which the host learns: the tap's filter leaves the first half of it
    to pods without an address of IPv6.
    """
    yield rules.chain(TABLE, "input", hook=rules.LOCAL_IN, priority=_PRIORITY)
    yield rules.rule(TABLE, "input", rules.meta(rules.FAMILY, bytes([rules.IPV6]), is_not=True), _PASS)
    key = _SENDER + _SOURCE[rules.IPV6]
    yield rules.rule(TABLE, "input", _SENDER, rules.matches(PODS, register=_MAC, is_not=True), _PASS)
    yield rules.rule(TABLE, "input", key, rules.matches(_SOURCES, register=_MAC), _PASS)
    yield from _drops("input", rules.LOCAL_IN)
    yield rules.rule(TABLE, "input", key, rules.change_set(_SOURCES, rules.ADD, register=_MAC))


def _drops(chain: str, hook: int) -> Iterator[nft.Message]:
    of_pod = rules.change_set(_BUDGET, rules.UPDATE, register=_MAC, excess=_POD)
    yield rules.rule(TABLE, chain, _SENDER, of_pod, _DROP)
    yield rules.rule(TABLE, chain, rules.over(_ALL[hook]), _DROP)
