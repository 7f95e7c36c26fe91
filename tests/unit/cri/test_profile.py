# SPDX-License-Identifier: Apache-2.0
"""The userspace that a PodSandboxConfig selects, and the error for an unknown one."""

import re

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.translate import sandbox
from stage1.errors import BadRequest
from tests.fakes.open_policy import OPEN


def request(annotation: str | None) -> pb.RunPodSandboxRequest:
    annotations = {} if annotation is None else {"clearpod.io/guest-profile": annotation}
    names = pb.PodSandboxMetadata(name="web", namespace="n")
    return pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(metadata=names, annotations=annotations))


@pytest.mark.parametrize(("annotation", "expected"), [(None, ""), ("", ""), ("default", ""), ("systemd", "systemd")])
def test_the_profile_follows_the_annotation(annotation: str | None, expected: str) -> None:
    assert sandbox.record(request(annotation), Config(policy=OPEN), handlers=("",)).pod.profile == expected


@pytest.mark.parametrize("annotation", ["systemd ", "SystemD", "../systemd", "openrc", "x" * 1000])
def test_an_unknown_profile_is_one_sentence_with_those_that_are_known(annotation: str) -> None:
    pattern = rf"clearpod\.io/guest-profile: .*profile {re.escape(repr(annotation[:100]))}; .*default and systemd$"
    with pytest.raises(BadRequest, match=pattern):
        sandbox.record(request(annotation), Config(), handlers=("",))
