# SPDX-License-Identifier: Apache-2.0
"""The text of the pod's own /etc/hosts, /etc/hostname and /etc/resolv.conf. Pure."""

from stage1.pod.model import Pod


def hosts(pod: Pod, addresses: tuple[str, ...] = ()) -> str:
    """Loopback names, then the pod's name for each of its addresses."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::0\tip6-localnet"]
    name = pod.hostname or "localhost"
    return "\n".join([*lines, *(f"{address}\t{name}" for address in addresses or ("127.0.1.1",))]) + "\n"


def hostname(pod: Pod) -> str:
    """One line."""
    return f"{pod.hostname or 'localhost'}\n"


def resolv_conf(pod: Pod, host_text: str) -> str:
    """The pod's DNS configuration (CRI DNSConfig); the host's file when the pod says nothing."""
    if not (pod.dns_servers or pod.dns_searches or pod.dns_options):
        return host_text
    lines = [f"search {' '.join(pod.dns_searches)}"] if pod.dns_searches else []
    lines += [f"nameserver {server}" for server in pod.dns_servers]
    lines += [f"options {' '.join(pod.dns_options)}"] if pod.dns_options else []
    return "\n".join(lines) + "\n"
