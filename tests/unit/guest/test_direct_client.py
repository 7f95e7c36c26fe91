# SPDX-License-Identifier: Apache-2.0
"""A few requests to an agent, after which its next host is as welcome as a first one."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import PodError, TimedOut, VmFailed
from stage1.guest.direct_client import DirectClient
from stage1.guest.messages import Configure, Stats
from tests.fakes import places
from tests.fakes.guest import FakeGuest
from tests.fakes.patience import PATIENCE


@pytest.fixture
def place() -> Iterator[Path]:
    with places.short_directory() as directory:
        yield Path(directory)


def test_one_after_the_other_is_answered_and_the_next_host_begins_anew(place: Path) -> None:
    (place / "volumes").mkdir()
    with FakeGuest(f"{place}/agent.sock", f"{place}/volumes") as guest:
        for hostname in ("one", "two"):
            with DirectClient(f"{place}/agent.sock", limit_s=30 * PATIENCE) as client:
                client.call(Configure(hostname=hostname, warm_up=True))
                client.call(Stats())
        assert [one.hostname for one in guest.configured] == ["one", "two"]


def test_a_missing_socket_is_waited_for_up_to_the_limit(place: Path) -> None:
    with pytest.raises(TimedOut, match="socket"):
        DirectClient(f"{place}/agent.sock", limit_s=0.05)


@pytest.mark.parametrize("answer", [b"", b"\xff" * 4096, None], ids=["ends", "nonsense", "silence"])
def test_what_is_no_agent_is_an_error(place: Path, answer: bytes | None) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/agent.sock")
        listener.listen()
        with DirectClient(f"{place}/agent.sock", limit_s=0.5) as client:
            guest, _ = listener.accept()
            with guest:
                if answer is not None:
                    guest.send(answer)
                    guest.shutdown(socket.SHUT_WR)
                with pytest.raises((VmFailed, TimedOut)) as caught:
                    client.call(Stats())
    assert isinstance(caught.value, PodError) and os.path.exists(f"{place}/agent.sock")
