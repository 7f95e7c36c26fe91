# SPDX-License-Identifier: Apache-2.0
"""Plans taps for the devices that plugins have made in the pod's netns, and the guest's configuration. Pure: for
tap_links and pool_slot.

Each Ethernet device of the netns gets a tap, and each of the two sends what it receives out of the other; so the
guest, with the device's MAC, MTU, addresses, routes and neighbours, takes its place. The device keeps its addresses:
plugins look for them at DEL, and leave rules behind when they don't find them. The plugins' results are not enough:
some set up routes and neighbours that they do not report.
"""

from typing import NamedTuple

from stage1.errors import NetworkFailed
from stage1.net.protocol import Document
from stage1.pod.network import Interface, Neighbour, PodNetwork, Route

_DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}
_LIMITS = {"interfaces": 8, "addresses": 16, "routes": 64, "neighbours": 64}
"""The agent's limits: proto/agent/agent.options."""


class Seen(NamedTuple):
    """The netns in the words of `ip -json`: links with their addresses, permanent neighbours, and of both families the
    routes of the main table.
    """

    links: list[Document]
    routes: list[Document]
    neighbours: list[Document]
    routes6: list[Document]

    def numbers(self) -> dict[str, int]:
        """The devices' names with their numbers."""
        return {link["ifname"]: link["ifindex"] for link in self.links}


def interfaces(links: list[Document]) -> tuple[Interface, ...]:
    """The guest's devices: all Ethernet devices but those that belong to another one and taps of ours."""
    devices = [link for link in links if link.get("link_type") == "ether" and not link.get("master")]
    return tuple(
        Interface(
            name=link["ifname"],
            mac=link["address"],
            mtu=link.get("mtu", 0),
            addresses=_addresses(link),
            tap=f"tap{link['ifindex']}",
        )
        for link in sorted(devices, key=lambda link: int(link["ifindex"]))
    )


def _addresses(link: Document) -> tuple[str, ...]:
    """All but the link-local IPv6 address, which the guest's kernel makes of the same MAC."""
    return tuple(
        f"{entry['local']}/{32 if 'address' in entry and entry['family'] == 'inet' else entry['prefixlen']}"
        for entry in link.get("addr_info") or []
        if entry.get("local") and not (entry.get("family") == "inet6" and entry.get("scope") == "link")
    )


def network(devices: tuple[Interface, ...], seen: Seen) -> PodNetwork:
    """Return the network that the guest is configured with. Raises NetworkFailed when that is more than its agent
    takes.
    """
    names = {one.name for one in devices}
    routes = (*_routes(seen.routes, names, family=4), *_routes(seen.routes6, names, family=6))
    neighbours = tuple(
        Neighbour(entry["dst"], entry["lladdr"], entry["dev"])
        for entry in seen.neighbours
        if entry.get("dev") in names and entry.get("lladdr")
    )
    counts = {"interfaces": len(devices), "routes": len(routes), "neighbours": len(neighbours)}
    counts["addresses"] = max((len(one.addresses) for one in devices), default=0)
    for what, count in counts.items():
        if count > _LIMITS[what]:
            raise NetworkFailed(f"the pod's network has {count} {what}; a guest takes at most {_LIMITS[what]}")
    return PodNetwork(devices, routes, neighbours)


def _routes(entries: list[Document], names: set[str], *, family: int) -> tuple[Route, ...]:
    """Return the routes that the guest's kernel does not make by itself, gateways last: they must be
    reachable first.
    """
    kept = [
        _route(entry, family)
        for entry in entries
        if entry.get("dev") in names
        and entry.get("protocol") not in ("kernel", "ra")
        and entry.get("type", "unicast") == "unicast"
    ]
    return tuple(sorted(kept, key=lambda route: bool(route.gateway)))


def _route(entry: Document, family: int) -> Route:
    more: Document = {key: value for part in entry.get("metrics") or [] for key, value in part.items()}
    numbers = (int(values.get(key) or 0) for values, key in ((entry, "metric"), (more, "mtu"), (more, "advmss")))
    return Route(_prefix(entry["dst"], family), str(entry.get("gateway", "")), entry["dev"], *numbers)


def _prefix(text: str, family: int) -> str:
    if text == "default":
        return _DEFAULTS[family]
    return text if "/" in text else f"{text}/{32 if family == 4 else 128}"
