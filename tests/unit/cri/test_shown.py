# SPDX-License-Identifier: Apache-2.0
"""How answers name an image and show what was asked for."""

import pytest

from cri.pb import runtime_pb2 as pb
from cri.translate import container, shown

TAGS = ["docker.io/library/busybox:1", "docker.io/library/busybox:latest"]


@pytest.mark.parametrize(
    ("asked", "user", "tags", "expected"),
    [
        ("sha256:" + "0" * 64, "busybox", TAGS, TAGS[1]),
        ("sha256:" + "0" * 64, "", TAGS, TAGS[0]),
        ("busybox:1", "", TAGS[::-1], TAGS[0]),
        ("busybox:1", "other:2", TAGS, TAGS[0]),
        ("BAD//", "a\nb", TAGS, TAGS[0]),
        ("busybox@sha256:" + "0" * 64, "", [], ""),
    ],
)
def test_an_image_is_shown_by_the_requested_tag(asked: str, user: str, tags: list[str], expected: str) -> None:
    assert container.shown_tag(pb.ImageSpec(image=asked, user_specified_image=user), tags) == expected


def test_a_message_is_shown_with_its_names_and_numbers() -> None:
    names = pb.ContainerMetadata(name="c", attempt=1)
    envs = [pb.KeyValue(key="K", value=b"\xff"), pb.KeyValue(key="E")]
    linux = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=1 << 40))
    config = pb.ContainerConfig(metadata=names, envs=envs, args=["a"], labels={"l": "v"}, linux=linux, tty=True)
    config.stop_signal = 1
    assert shown.message(config) == {
        "metadata": {"name": "c", "attempt": 1},
        "args": ["a"],
        "envs": [{"key": "K", "value": "\ufffd"}, {"key": "E"}],
        "labels": {"l": "v"},
        "tty": True,
        "linux": {"resources": {"memory_limit_in_bytes": 1 << 40}},
        "stop_signal": 1,
    }
