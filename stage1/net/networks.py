# SPDX-License-Identifier: Apache-2.0
"""Which networks a pod gets: the node's, else the embedded default, and those that it names itself.

Called by attach, the daemon's Status and `clearpod check`. Files are read each time, so a change counts at once. It
must not run plugins.
"""

import os
from typing import Any

from stage1.errors import BadRequest
from stage1.net import conflist
from stage1.net.conflist import Network, Selection, find_plugin
from stage1.net.settings import Default, Settings

NAME = "clearpod"
"""The embedded network's."""
EMBEDDED = "embedded in clearpod"
"""Stands where a configuration's file would."""
MOST = 8
"""Networks of one pod, its first one included: what the guest's agent takes."""
_NEEDED = ("bridge", "host-local", "portmap")
_PACKAGE = "containernetworking-plugins"


def find(settings: Settings) -> Selection:
    """The network of all pods. The embedded one only when there is no configuration at all, not when one is broken."""
    configured = conflist.find(settings.conf_dir)
    if configured.network or configured.problems or not settings.default or missing(settings):
        return configured
    return Selection(embedded(settings.default, has_firewall=bool(find_plugin("firewall", settings.bin_dirs))))


def missing(settings: Settings) -> tuple[str, ...]:
    """The plugins that the embedded network lacks on this host."""
    return tuple(kind for kind in _NEEDED if not find_plugin(kind, settings.bin_dirs))


def lacks(settings: Settings) -> str:
    """Why pods get no network, as a sentence; empty when they get one."""
    configured = find(settings)
    if configured.network is not None:
        return conflist.lacks_plugin(configured.network, settings.bin_dirs)
    if configured.problems:
        return "; ".join(configured.problems)
    none = f"there is no CNI configuration in {settings.conf_dir}"
    if settings.default is None:
        return none
    named, where = " and ".join(map(repr, missing(settings))), " or ".join(settings.bin_dirs)
    return f"{none}, and the embedded network lacks the CNI plugin {named} in {where}: apt install {_PACKAGE}"


def note(settings: Settings) -> str:
    """A warning although there is a network: a sentence, or empty."""
    network, problems = find(settings)
    if network is not None and network.file == EMBEDDED:
        return f"the embedded network {NAME!r} is in use, since there is no CNI configuration in {settings.conf_dir}"
    return f"ignored: {'; '.join(problems)}" if network is not None and problems else ""


def chosen(names: tuple[str, ...], settings: Settings) -> tuple[Network, ...]:
    """The pod's networks in the order of its devices; `names` come after the node's own. Empty is loopback only.

    Raises BadRequest: a configuration can't be understood, a name is unknown, or a plugin is not there.
    """
    configured = find(settings)
    if configured.network is None and configured.problems:
        raise BadRequest(f"the pod can get no network: {'; '.join(configured.problems)}")
    first = (configured.network,) if configured.network else ()
    if len(names) >= MOST:
        raise BadRequest(f"the pod requests {len(names)} further networks; at most {MOST - 1} are possible")
    networks = (*first, *_named(names, settings, first=configured.network))
    _require_different(networks)
    for network in networks:
        conflist.require_plugins(network, settings.bin_dirs)
    return networks


def _require_different(networks: tuple[Network, ...]) -> None:
    """Plugins name their rules after pod and network, so a second device in one network would break them at DEL."""
    names = [network.name for network in networks]
    for name in names:
        if names.count(name) > 1:
            raise BadRequest(f"the pod requests the network {name!r} twice; a pod can join a network once")


def _named(names: tuple[str, ...], settings: Settings, *, first: Network | None) -> tuple[Network, ...]:
    if not names:
        return ()
    configured, problems = conflist.every(settings.conf_dir)
    known = {network.name: network for network in reversed((*((first,) if first else ()), *configured))}
    for name in names:
        if name not in known:
            there = f"there are: {', '.join(sorted(known))}" if known else "there is none"
            problem = f"the pod asks for the network {name!r}, which is not in {settings.conf_dir}; {there}"
            raise BadRequest("; ".join([problem, *problems]))
    return tuple(known[name] for name in names)


def embedded(default: Default, *, has_firewall: bool = False, has_ipv6: bool | None = None) -> Network:
    """A bridge with leases of its own, host ports, and what lets forwarded packets pass. None: look for IPv6."""
    with_ipv6 = _has_ipv6() if has_ipv6 is None else has_ipv6
    subnets = [subnet for subnet in default.subnets if with_ipv6 or ":" not in subnet]
    ipam: dict[str, Any] = {
        "type": "host-local",
        "dataDir": default.lease_dir,
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }
    bridge: dict[str, Any] = {
        "type": "bridge",
        "bridge": default.bridge,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": ipam,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    firewall = ({"type": "firewall"},) if has_firewall else ()
    return Network(NAME, "1.0.0", (bridge, portmap, *firewall), EMBEDDED)


def _has_ipv6() -> bool:
    """Whether the host speaks it: where it does not, the bridge plugin would fail."""
    try:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", encoding="ascii") as file:
            return file.read().strip() == "0" and os.path.exists("/proc/net/if_inet6")
    except OSError:
        return False
