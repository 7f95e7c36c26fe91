# SPDX-License-Identifier: Apache-2.0
"""What a PodSandboxConfig says about the network. Called by `sandbox`. Pure."""

import ipaddress
import re
from fractions import Fraction

from cri import policy
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.net.conflist import is_word
from stage1.pod.model import Port

INGRESS_WORD, EGRESS_WORD = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
"""Annotations, of bits per second, as a Kubernetes quantity."""

_PROTOCOLS = {pb.TCP: "tcp", pb.UDP: "udp", pb.SCTP: "sctp"}
_UNITS = {"": Fraction(1), "m": Fraction(1, 1000)}
_UNITS |= {unit: Fraction(1000**power) for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), start=1)}
_UNITS |= {unit: Fraction(1024**power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_LEAST_BITS, _MOST_BITS = 1000, 10**15


def ports(wanted: pb.PodSandboxConfig) -> tuple[Port, ...]:
    """The ports that the host publishes: those with a host port. Raises BadRequest."""
    return tuple(_port(mapping) for mapping in wanted.port_mappings if mapping.host_port)


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
        raise BadRequest(f"a port mapping's host_ip must be an IP address, but it is {text!r}") from None


def bandwidth(wanted: pb.PodSandboxConfig, word: str) -> int:
    """The annotation `word` in bits per second, 0 when it is absent. Raises BadRequest, also beyond 1k and 1P."""
    text = wanted.annotations.get(word, "")
    if not text:
        return 0
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mkMGTPE]|[KMGTPE]i)?", text)
    if not found:
        raise BadRequest(f"the annotation {word} must be a quantity such as 10M, but it is {text!r}")
    bits = int(Fraction(found[1]) * _UNITS[found[2] or ""])
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise BadRequest(f"the annotation {word} must be from 1k to 1P, but it is {text!r}")
    return bits


def more_networks(wanted: pb.PodSandboxConfig) -> tuple[str, ...]:
    """The names in the annotation `clearpod.io/networks`. Raises BadRequest."""
    text = wanted.annotations.get(policy.NETWORKS, "")
    names = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    for name in names:
        if not is_word(name):
            raise BadRequest(f"the annotation {policy.NETWORKS} must be names, as in a,b, but it is {text!r}")
    return names
