# SPDX-License-Identifier: Apache-2.0
"""What a container of a checkpoint is when it is asked for again: its terminal and standard input are as they were."""

from typing import Any

import pytest

from cri.containers import claim
from cri.pb import runtime_pb2 as pb
from cri.pods import restorable
from cri.store.checkpoints import SavedContainer
from cri.store.pods import ContainerRecord
from stage1.errors import BadRequest, WrongState

from .test_checkpoints import MADE
from .test_claim import PRIVILEGED, copied, record


def former(config: bytes) -> ContainerRecord:
    """The one container of a checkpoint in which it has that configuration."""
    container = SavedContainer("a" * 64, "c", 0, "sha256:a", "ref", "", config, ("/data",))
    images: Any = None
    manifest = MADE._replace(containers=(container,), images=(), pieces=())
    return restorable.located(manifest, images, title="a checkpoint")[1].containers[0]


@pytest.mark.parametrize("streams", [{}, {"tty": True}, {"stdin": True}, {"stdin": True, "stdin_once": True}])
def test_a_container_goes_on_with_the_streams_that_it_has(streams: dict[str, bool]) -> None:
    saved = former(pb.ContainerConfig(command=["sh"], working_dir="/x" * 1000, **streams).SerializeToString())
    assert claim.find(copied(saved), record(**streams)) is saved
    assert len(saved.config) < 100, "it is written down with each state of the pod"
    for name in claim.STREAMS:
        with pytest.raises(WrongState, match=name):
            claim.find(copied(saved), record(**streams | {name: not streams.get(name, False)}))


def test_a_container_goes_on_with_the_rights_that_it_has() -> None:
    rights = {"linux": PRIVILEGED, "devices": [pb.Device(container_path="/dev/x", host_path="/dev/null")]}
    saved = former(pb.ContainerConfig(command=["sh"], **rights).SerializeToString())
    assert claim.find(copied(saved), record(**rights)) is saved
    for name in rights:
        with pytest.raises(WrongState, match=r"privileged|/dev/x"):
            claim.find(copied(saved), record(**{key: value for key, value in rights.items() if key != name}))


def test_one_whose_configuration_is_damaged_is_refused() -> None:
    with pytest.raises(BadRequest, match="container c"):
        former(b"\xff")
