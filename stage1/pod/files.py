# SPDX-License-Identifier: Apache-2.0
"""The text of the pod's own /etc/hosts, /etc/hostname, /etc/resolv.conf and /etc/machine-id, and its boot id.
Pure.
"""

from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork


def hosts(pod: Pod, addresses: tuple[str, ...] = ()) -> str:
    """Loopback names, then the pod's name for each of its addresses; if it has a domain, also the name without it.

    What the pod adds itself (`Pod.hosts`) comes last.
    """
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::0\tip6-localnet"]
    name = pod.hostname or "localhost"
    short = name.partition(".")[0]
    name = name if short == name else f"{name}\t{short}"
    lines += [f"{address}\t{name}" for address in addresses or ("127.0.1.1",)]
    return "\n".join([*lines, *(f"{one.address}\t{one.name}" for one in pod.hosts)]) + "\n"


def on_host_network(pod: Pod, host_text: str) -> str:
    """The hosts file of a pod whose name and addresses are the host's."""
    return host_text or hosts(pod)


def hostname(pod: Pod) -> str:
    """Return /etc/hostname."""
    return f"{pod.hostname or 'localhost'}\n"


def machine_id(pod: Pod) -> str:
    """One line, see machine-id(5): of an image's own file all pods of that image would be the same machine."""
    return f"{pod.id.replace('-', '')[:32]}\n"


def boot_id(pod: Pod) -> str:
    """One line in the form of the kernel's, which the pod keeps as long as it exists."""
    digits = pod.id.replace("-", "")[-32:].zfill(32)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}\n"


def resolv_conf(pod: Pod, host_text: str, *, network: PodNetwork | None = None) -> str:
    """The pod's DNS configuration: the pod's own (CRI DNSConfig), else its network's, else the host's file."""
    for source in (pod, network):
        if source and (source.dns_servers or source.dns_searches or source.dns_options):
            return _resolver_lines(source)
    return host_text


def _resolver_lines(source: Pod | PodNetwork) -> str:
    lines = [f"search {' '.join(source.dns_searches)}"] if source.dns_searches else []
    lines += [f"nameserver {server}" for server in source.dns_servers]
    lines += [f"options {' '.join(source.dns_options)}"] if source.dns_options else []
    return "\n".join(lines) + "\n"
