# SPDX-License-Identifier: Apache-2.0
"""cri.containers.discard for a container of a copied guest, which has another name there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cri.containers import discard
from cri.live.container import LiveContainer
from cri.live.guest import GuestNames
from cri.live.pod import LivePod
from stage1.errors import AgentFailed
from stage1.guest import messages


class Pod:
    """One that refuses a few times, and no longer has the container."""

    is_ready = True

    def __init__(self, directory: Path) -> None:
        self.directory, self.names, self.images = str(directory), GuestNames({}), self
        self.asked: list[messages.Op] = []

    async def call(self, op: messages.Op) -> None:
        self.asked.append(self.names.to_guest(op))
        if len(self.asked) < 3:
            raise AgentFailed("not now")

    async def settle(self) -> None:
        """There is no window."""


@pytest.mark.parametrize(("guest_id", "name"), [("", "ours"), ("original", "original")])
async def test_a_guest_is_asked_again_by_the_name_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest_id: str, name: str
) -> None:
    monkeypatch.setattr(discard, "FIRST_PAUSE_S", 0.0)
    bundle = tmp_path / "tree/volumes/containers/ours"
    bundle.mkdir(parents=True)
    pod: Any = Pod(tmp_path)
    container: Any = SimpleNamespace(id="ours", record=SimpleNamespace(guest_id=guest_id))
    await discard.discard_later(cast("LivePod", pod), cast("LiveContainer", container))
    assert pod.asked == [messages.Delete(name)] * 3 and not bundle.exists()
