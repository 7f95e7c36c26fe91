# SPDX-License-Identifier: Apache-2.0
"""A sandbox's network options, and host ports that are taken."""

import pytest

from cri.pb import runtime_pb2 as pb
from cri.pods import ports
from cri.translate import network
from stage1.errors import AlreadyExists, BadRequest
from stage1.pod.model import Pod, Port

WORD = network.INGRESS


def mapping(**fields: object) -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(port_mappings=[pb.PortMapping(**fields)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (pb.PodSandboxConfig(), ()),
        (mapping(container_port=80), ()),
        (mapping(container_port=80, host_port=8080), (Port(80, 8080, "tcp", ""),)),
        (mapping(protocol=pb.UDP, container_port=53, host_port=53, host_ip="::1"), (Port(53, 53, "udp", "::1"),)),
        (mapping(protocol=pb.SCTP, container_port=1, host_port=65535), (Port(1, 65535, "sctp", ""),)),
        (mapping(container_port=1, host_port=1, host_ip="0:0::1"), (Port(1, 1, "tcp", "::1"),)),
    ],
)
def test_ports_with_a_host_port_are_published(config: pb.PodSandboxConfig, expected: tuple[Port, ...]) -> None:
    assert network.ports(config) == expected


@pytest.mark.parametrize(
    "config",
    [
        mapping(container_port=0, host_port=80),
        mapping(container_port=80, host_port=65536),
        mapping(container_port=80, host_port=-1),
        mapping(container_port=80, host_port=80, host_ip="localhost"),
        mapping(protocol=7, container_port=80, host_port=80),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(config: pb.PodSandboxConfig) -> None:
    with pytest.raises(BadRequest, match="a port mapping's"):
        network.ports(config)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", 0),
        ("10M", 10_000_000),
        ("1Gi", 1 << 30),
        ("1.5k", 1500),
        ("2000000m", 2000),
        ("1000", 1000),
        ("1P", 10**15),
    ],
)
def test_bandwidth_is_a_quantity(text: str, bits: int) -> None:
    assert network.bandwidth(pb.PodSandboxConfig(annotations={WORD: text}), WORD) == bits


@pytest.mark.parametrize("text", ["x", "10 M", "-1M", "10MB", "999", "2P", "1e6", ".5M", "0"])
def test_bandwidth_that_is_none_is_refused_with_the_annotations_name(text: str) -> None:
    with pytest.raises(BadRequest, match=f"annotation {WORD} "):
        network.bandwidth(pb.PodSandboxConfig(annotations={WORD: text}), WORD)


def test_no_annotation_is_no_limit() -> None:
    assert network.bandwidth(pb.PodSandboxConfig(), WORD) == 0


HELD = Pod("1", "held", namespace="a", ports=(Port(80, 8080), Port(53, 53, "udp", "10.0.0.1")))


@pytest.mark.parametrize(
    ("port", "is_free"),
    [
        (Port(80, 8081), True),
        (Port(80, 8080, "udp"), True),
        (Port(80, 8080), False),
        (Port(80, 8080, "tcp", "10.0.0.1"), False),
        (Port(1, 53, "udp", "10.0.0.2"), True),
        (Port(1, 53, "udp", "10.0.0.1"), False),
        (Port(1, 53, "udp", "0.0.0.0"), False),
        (Port(1, 53, "udp"), False),
    ],
)
def test_a_host_port_belongs_to_one_pod_which_is_named(port: Port, is_free: bool) -> None:
    expected = Pod("2", "web", ports=(port,))
    if is_free:
        ports.require_free(expected, [HELD])
        return
    with pytest.raises(AlreadyExists, match=r"port \d+ .*pod a/held$"):
        ports.require_free(expected, [HELD])


def test_a_pod_can_not_publish_a_port_twice() -> None:
    with pytest.raises(AlreadyExists, match=r"pod default/web$"):
        ports.require_free(Pod("2", "web", ports=(Port(80, 8080), Port(81, 8080))), [])
