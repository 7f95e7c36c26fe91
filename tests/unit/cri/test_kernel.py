# SPDX-License-Identifier: Apache-2.0
"""Which kernel a pod asks for: by annotation, runtime handler, or port."""

from typing import Any

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.translate import kernel, sandbox


def _sandbox(**fields: Any) -> pb.RunPodSandboxRequest:
    metadata = pb.PodSandboxMetadata(name="web", namespace="default", uid="1")
    return pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(metadata=metadata, **fields))


@pytest.mark.parametrize(
    ("annotation", "protocols", "expected"),
    [
        (None, [], ""),
        (None, [pb.TCP, pb.UDP], ""),
        (None, [pb.TCP, pb.SCTP], "sctp"),
        ("sctp", [], "sctp"),
        ("", [pb.SCTP], "sctp"),
        ("mine", [pb.SCTP], "mine"),
        ("default", [pb.SCTP], ""),
    ],
)
def test_the_kernel_follows_the_annotation_and_then_the_ports(
    annotation: str | None, protocols: list[pb.Protocol], expected: str
) -> None:
    ports = [pb.PortMapping(protocol=one, container_port=80) for one in protocols]
    annotations = {} if annotation is None else {"clearpod.io/kernel": annotation}
    request = _sandbox(port_mappings=ports, annotations=annotations)
    assert sandbox.record(request, Config(), handlers=("",)).pod.kernel == expected


@pytest.mark.parametrize(
    ("value", "kernel_name", "protocol", "expected"),
    [
        ("localhost/mine", "", pb.TCP, "full"),
        ("localhost/mine", "", pb.SCTP, "full"),
        ("localhost/mine", "default", pb.TCP, ""),
        ("runtime/default", "", pb.TCP, ""),
        ("runtime/default", "", pb.SCTP, "sctp"),
        ("unconfined", "", pb.TCP, ""),
    ],
)
def test_a_profile_of_apparmor_by_name_asks_for_a_kernel_with_it(
    value: str, kernel_name: str, protocol: pb.Protocol, expected: str
) -> None:
    annotations = {f"{kernel.APPARMOR}main": value, "clearpod.io/kernel": kernel_name}
    port = pb.PortMapping(protocol=protocol, container_port=80)
    request = _sandbox(annotations=annotations, port_mappings=[port])
    assert sandbox.record(request, Config(), handlers=("",)).pod.kernel == expected


@pytest.mark.parametrize(
    ("handler", "annotation", "protocol", "expected"),
    [
        ("clearpod", "", pb.TCP, ""),
        ("clearpod-full", "", pb.TCP, "full"),
        ("clearpod-full", "", pb.SCTP, "full"),
        ("clearpod-full", "default", pb.TCP, ""),
        ("clearpod-full", "sctp", pb.TCP, "sctp"),
        ("clearpod-image", "", pb.TCP, "image"),
        ("clearpod", "image", pb.TCP, "image"),
    ],
)
def test_a_handler_stands_for_a_kernel_unless_the_annotation_names_one(
    handler: str, annotation: str, protocol: pb.Protocol, expected: str
) -> None:
    port = pb.PortMapping(protocol=protocol, container_port=80)
    request = _sandbox(port_mappings=[port], annotations={"clearpod.io/kernel": annotation})
    request.runtime_handler = handler
    assert sandbox.record(request, Config(), handlers=kernel.handlers(["full"])).pod.kernel == expected
