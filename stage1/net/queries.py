# SPDX-License-Identifier: Apache-2.0
"""Netlink queries about the current network namespace, with results in the form of `ip -json`, as far as tap reads
them. Called by tap_links and pool_slot. Read-only.
"""

import _socket
import struct

from stage1.linux.netlink import Netlink, attribute, attributes
from stage1.net import tap
from stage1.net.protocol import Document

_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_NEIGHBOUR = 18, 22, 26, 30
_LINK, _ADDRESS = struct.Struct("=BxHiII"), struct.Struct("=BBBBi")
_ROUTE, _NEIGHBOUR = struct.Struct("=BBBBBBBBI"), struct.Struct("=BxxxiHBB")
_ETHER = 1
_INET, _INET6 = 2, 10
_FAMILIES = {_INET: "inet", _INET6: "inet6"}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host"}
_MAIN = 254
_PROTOCOLS = {2: "kernel", 9: "ra"}
_UNICAST = 1
_PERMANENT, _PROXY = 0x80, 0x08


def query(netlink: Netlink) -> tap.Seen:
    """Links with their addresses, the routes of the main table, permanent neighbours. Raises KernelError."""
    links = dict(map(_link, netlink.dump(_GET_LINK, bytes(_LINK.size), what="links")))
    for body in netlink.dump(_GET_ADDRESS, bytes(_ADDRESS.size), what="addresses"):
        number, address = _address(body)
        if address and number in links:
            links[number]["addr_info"].append(address)
    routes: dict[int, list[Document]] = {_INET: [], _INET6: []}
    for body in netlink.dump(_GET_ROUTE, bytes(_ROUTE.size), what="routes"):
        family, route = _route(body, links)
        if route:
            routes.get(family, []).append(route)
    neighbours = (
        _neighbour(body, links) for body in netlink.dump(_GET_NEIGHBOUR, bytes(_NEIGHBOUR.size), what="neighbours")
    )
    return tap.Seen(list(links.values()), routes[_INET], [one for one in neighbours if one], routes[_INET6])


def master(netlink: Netlink, name: str) -> int:
    """The number of the device to which the device of this name belongs, 0 if there is none. Raises KernelError."""
    answer = netlink.get(_GET_LINK, bytes(_LINK.size) + attribute(3, name.encode() + b"\0"), what=f"the device {name}")
    return int(_link(answer)[1].get("master", 0))


def _link(body: bytes) -> tuple[int, Document]:
    _, kind, index, _, _ = _LINK.unpack_from(body)
    has = attributes(body[_LINK.size :])
    link: Document = {"ifindex": index, "ifname": _text(has.get(3, b"")), "addr_info": []}
    link["link_type"] = "ether" if kind == _ETHER else str(kind)
    link["address"] = has.get(1, b"").hex(":")
    link["mtu"] = _number(has.get(4, b""))
    if _number(has.get(10, b"")):
        link["master"] = _number(has[10])
    return index, link


def _address(body: bytes) -> tuple[int, Document | None]:
    family, length, _, scope, index = _ADDRESS.unpack_from(body)
    has = attributes(body[_ADDRESS.size :])
    if family not in _FAMILIES:
        return index, None
    local = has.get(2, has.get(1, b""))
    address: Document = {"family": _FAMILIES[family], "local": _ip(local), "prefixlen": length}
    address["scope"] = _SCOPES.get(scope, str(scope))
    if has.get(1, local) != local:
        address["address"] = _ip(has[1])
    return index, address


def _route(body: bytes, links: dict[int, Document]) -> tuple[int, Document | None]:
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    has = attributes(body[_ROUTE.size :])
    device = links.get(_number(has.get(4, b"")))
    if device is None or (_number(has.get(15, b"")) or table) != _MAIN:
        return family, None
    route: Document = {"dst": f"{_ip(has[1])}/{length}" if 1 in has else "default", "dev": device["ifname"]}
    route["protocol"] = _PROTOCOLS.get(protocol, str(protocol))
    route["type"] = "unicast" if kind == _UNICAST else str(kind)
    if 5 in has:
        route["gateway"] = _ip(has[5])
    if 6 in has:
        route["metric"] = _number(has[6])
    metrics = attributes(has.get(8, b""))
    route["metrics"] = [{name: _number(metrics[at]) for at, name in ((2, "mtu"), (8, "advmss")) if at in metrics}]
    return family, route


def _neighbour(body: bytes, links: dict[int, Document]) -> Document | None:
    family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    has = attributes(body[_NEIGHBOUR.size :])
    if family not in _FAMILIES or not state & _PERMANENT or flags & _PROXY or not {1, 2} <= has.keys():
        return None
    return {"dst": _ip(has[1]), "lladdr": has[2].hex(":"), "dev": links[index]["ifname"]} if index in links else None


def _number(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _ip(data: bytes) -> str:
    return _socket.inet_ntop(_socket.AF_INET6 if len(data) == 16 else _socket.AF_INET, data)
