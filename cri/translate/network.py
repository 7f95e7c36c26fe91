# SPDX-License-Identifier: Apache-2.0
"""The network part of a PodSandboxConfig. Called by `sandbox`. Pure."""

import ipaddress
import re
from collections.abc import Iterable

from cri import policy
from cri.pb import runtime_pb2 as pb
from cri.translate.bounds import short
from stage1.errors import BadRequest
from stage1.net.conflist import is_word
from stage1.pod.model import Port

INGRESS = "kubernetes.io/ingress-bandwidth"
"""Limit of what the pod receives, in bits per second, as a Kubernetes quantity. Always allowed."""
EGRESS = "kubernetes.io/egress-bandwidth"
"""Limit of what the pod sends, in bits per second, as a Kubernetes quantity. Always allowed."""

_PROTOCOLS = {pb.TCP: "tcp", pb.UDP: "udp", pb.SCTP: "sctp"}
_MILLIS: dict[str, int] = {unit: 1000**power for power, unit in enumerate(("m", "", "k", "M", "G", "T", "P", "E"))}
_MILLIS |= {unit: 1000 * 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
"""The units of quantities, in thousandths."""
_NO_HOSTNAME = re.compile("[^A-Za-z0-9._-]")
_HOSTNAME_BYTES, _DNS_BYTES = 64, 253
_QUANTITY_BYTES = 32
_LEAST_BITS, _MOST_BITS = 1000, 10**15


def hostname(text: str, *, pod_name: str) -> str:
    """The pod's host name, by default made of its name. It becomes a word in /etc/hosts. Raises BadRequest."""
    if not text:
        return _NO_HOSTNAME.sub("-", pod_name)[:63]
    if _NO_HOSTNAME.search(text) or len(text) > _HOSTNAME_BYTES:
        raise BadRequest(
            f"hostname must be at most {_HOSTNAME_BYTES} letters, digits, '-', '.' and '_', but it is {short(text)}"
        )
    return text


def dns_servers(given: Iterable[str]) -> tuple[str, ...]:
    """Addresses, for resolv.conf. Raises BadRequest."""
    for text in (servers := tuple(given)):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise BadRequest(f"dns_config.servers must be IP addresses, but one is {short(text)}") from None
    return servers


def dns_texts(given: Iterable[str], *, what: str) -> tuple[str, ...]:
    """Words without spaces, for one line of resolv.conf. Raises BadRequest."""
    for text in (texts := tuple(given)):
        if not text or len(text) > _DNS_BYTES or any(letter.isspace() for letter in text):
            raise BadRequest(
                f"dns_config.{what} must be words of at most {_DNS_BYTES} characters, but one is {short(text)}"
            )
    return texts


def ports(sandbox: pb.PodSandboxConfig) -> tuple[Port, ...]:
    """The ports that the host publishes: those with a host port. Raises BadRequest."""
    return tuple(_port(mapping) for mapping in sandbox.port_mappings if mapping.host_port)


def _port(mapping: pb.PortMapping) -> Port:
    protocol = _PROTOCOLS.get(mapping.protocol)
    if protocol is None:
        raise BadRequest(f"a port mapping's protocol must be TCP, UDP or SCTP, but it is {mapping.protocol}")
    for number in (mapping.host_port, mapping.container_port):
        if not 0 < number < 65536:
            raise BadRequest(f"a port mapping's ports must be 1 to 65535, but one is {number}")
    return Port(mapping.container_port, mapping.host_port, protocol, _address(mapping.host_ip))


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise BadRequest(f"a port mapping's host_ip must be an IP address, but it is {short(text)}") from None


def bandwidth(sandbox: pb.PodSandboxConfig, word: str) -> int:
    """The annotation `word` in bits per second, 0 when it is absent. Raises BadRequest, also beyond 1k and 1P."""
    text = sandbox.annotations.get(word, "")
    if not text:
        return 0
    match = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?([mkMGTPE]|[KMGTPE]i)?", text)
    if not match or len(text) > _QUANTITY_BYTES:
        raise BadRequest(f"the annotation {word} must be a quantity such as 10M, but it is {short(text)}")
    decimals = match[2] or ""
    scale = 1000 * int("1" + "0" * len(decimals))
    bits = int(match[1] + decimals) * _MILLIS[match[3] or ""] // scale
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise BadRequest(f"the annotation {word} must be from 1k to 1P, but it is {text!r}")
    return bits


def more_networks(sandbox: pb.PodSandboxConfig) -> tuple[str, ...]:
    """The names in the annotation `clearpod.io/networks`. Raises BadRequest."""
    text = sandbox.annotations.get(policy.NETWORKS, "")
    names = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    for name in names:
        if not is_word(name):
            raise BadRequest(f"the annotation {policy.NETWORKS} must be names, as in a,b, but it is {short(text)}")
    return names
