# SPDX-License-Identifier: Apache-2.0
"""The node's network settings as values. Made from the daemon's configuration, read by all of `net`. Pure."""

from typing import NamedTuple

LIMIT_S = 30.0
IFNAME = "eth0"
"""Of the first network's device in the pod; the others are eth1 and so on."""


class Default(NamedTuple):
    """The network that pods get if none is configured. `subnets` are one of IPv4, one of IPv6, or both."""

    subnets: tuple[str, ...]
    bridge: str = "clearpod0"
    lease_dir: str = "/var/lib/cni/networks"


class Settings(NamedTuple):
    """The directories of the node's networks. `cache_dir` must survive a reboot; in `results_dir` other runtimes record
    their attachments. Without `default` there is no default network.
    """

    conf_dir: str
    bin_dirs: tuple[str, ...]
    cache_dir: str
    limit_s: float = LIMIT_S
    results_dir: str = "/var/lib/cni/results"
    default: Default | None = None


NETNS = "/run/netns/clearpod-"
"""The prefix of the paths of all pods' network namespaces."""


def netns_path(pod_id: str) -> str:
    """The file that keeps the pod's netns, where `ip netns` and plugins in containers look for such files."""
    return f"{NETNS}{pod_id}"
