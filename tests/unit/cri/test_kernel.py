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
    ("annotation", "expected"), [(None, ""), ("", ""), ("mine", "mine"), ("default", ""), ("image", "image")]
)
def test_the_kernel_follows_the_annotation(annotation: str | None, expected: str) -> None:
    ports = [pb.PortMapping(protocol=one, container_port=80) for one in (pb.TCP, pb.UDP, pb.SCTP)]
    annotations = {} if annotation is None else {"clearpod.io/kernel": annotation}
    request = _sandbox(port_mappings=ports, annotations=annotations)
    assert sandbox.record(request, Config(), handlers=("",)).pod.kernel == expected


@pytest.mark.parametrize(
    ("value", "kernel_name", "expected"),
    [
        ("localhost/mine", "", "stock"),
        ("localhost/mine", "default", ""),
        ("runtime/default", "", ""),
        ("unconfined", "", ""),
    ],
)
def test_a_profile_of_apparmor_by_name_asks_for_a_kernel_with_it(value: str, kernel_name: str, expected: str) -> None:
    annotations = {f"{kernel.APPARMOR}main": value, "clearpod.io/kernel": kernel_name}
    request = _sandbox(annotations=annotations)
    assert sandbox.record(request, Config(), handlers=("",)).pod.kernel == expected


@pytest.mark.parametrize(
    ("handler", "annotation", "expected"),
    [
        ("clearpod", "", ""),
        ("clearpod-stock", "", "stock"),
        ("clearpod-stock", "default", ""),
        ("clearpod-stock", "mine", "mine"),
        ("clearpod-image", "", "image"),
        ("clearpod", "image", "image"),
    ],
)
def test_a_handler_stands_for_a_kernel_unless_the_annotation_names_one(
    handler: str, annotation: str, expected: str
) -> None:
    request = _sandbox(annotations={"clearpod.io/kernel": annotation})
    request.runtime_handler = handler
    assert sandbox.record(request, Config(), handlers=kernel.handlers(["stock"])).pod.kernel == expected
