# SPDX-License-Identifier: Apache-2.0
"""What a container of a checkpoint is when it is asked for again: what was decided of it is as it was."""

from typing import Any

import pytest

from cri.containers import claim
from cri.pods import restorable
from cri.store.checkpoints import SavedContainer
from cri.store.pods import ContainerRecord
from stage1.errors import WrongState
from stage1.pod.model import Process, Security

from .test_checkpoints import MADE
from .test_claim import copied, decisions, record


def former(was: ContainerRecord) -> ContainerRecord:
    """The one container of a checkpoint in which it was so."""
    container = SavedContainer(
        "a" * 64, "c", 0, "sha256:a", "ref", "", b"x" * 5000, ("/data",), decided=decisions(was)
    )  # fmt: skip
    images: Any = None
    manifest = MADE._replace(containers=(container,), images=(), pieces=())
    return restorable.located(manifest, images, title="a checkpoint")[1].containers[0]


def test_a_container_goes_on_as_what_it_is_and_little_is_written_down_of_it() -> None:
    was = record(process=Process(("sh",), tty=True), security=Security(privileged=True))
    saved = former(was)
    assert claim.find(copied(saved), was) is saved
    assert len(saved.config) < 100, "it is written down with each state of the pod"
    for name, other in (("tty", was.container._replace(process=Process(("sh",)))),
                        ("privileged", was.container._replace(security=Security()))):  # fmt: skip
        with pytest.raises(WrongState, match=name):
            claim.find(copied(saved), was._replace(container=other))
