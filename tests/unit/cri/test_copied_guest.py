# SPDX-License-Identifier: Apache-2.0
"""A guest that was loaded as a copy is untrusted: what it reports of itself while it becomes another pod's."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cri.snapshots import copies
from stage1.errors import TimedOut
from stage1.guest import messages as m
from stage1.pod.model import Pod
from stage1.snapshot.format import Manifest

MANIFEST = Manifest({}, memory_mib=128)
ALIVE = "a" * 64


class Guest:
    """What is asked of it; each answer takes `pause_s`."""

    def __init__(self, listed: tuple[m.Container, ...], pause_s: float = 0) -> None:
        self.asked: list[m.Op] = []
        self._listed, self._pause_s = listed, pause_s

    async def call(self, op: m.Op, timeout_s: float) -> m.Reply:
        self.asked.append(op)
        await asyncio.sleep(self._pause_s)
        return m.Reply(containers=self._listed) if isinstance(op, m.List) else m.Reply()


def _pod(guest: Guest, limit_s: float = 30.0) -> Any:
    return SimpleNamespace(
        call=guest.call, title="pod default/copy", network=None, record=SimpleNamespace(pod=Pod("1" * 64, "copy")),
        tools=SimpleNamespace(boot_timeout_s=limit_s),
        status=SimpleNamespace(waiting=(SimpleNamespace(guest_id=ALIVE),)),
    )  # fmt: skip


def _joined() -> "asyncio.Task[None]":
    """The pod has its network."""
    return asyncio.ensure_future(asyncio.sleep(0))


async def test_unwanted_containers_are_deleted_and_the_others_frozen() -> None:
    listed = (m.Container(ALIVE, m.RUNNING), m.Container("b" * 64, m.RUNNING), m.Container("../..", m.CREATED))
    guest = Guest(listed)
    await copies._assume_identity(_pod(guest), MANIFEST, joined=_joined())
    assert [op.id for op in guest.asked if isinstance(op, m.Delete)] == ["b" * 64, "../.."]
    assert [op for op in guest.asked if isinstance(op, m.Freeze)] == [m.Freeze(ALIVE), m.Freeze(thaw=True)]


async def test_it_gets_its_identity_first_and_in_order() -> None:
    """Each reply takes its way through the emulated guest, which does what it is asked in turn."""
    guest = Guest((m.Container(ALIVE, m.RUNNING),), pause_s=0.05)
    making = asyncio.ensure_future(copies._assume_identity(_pod(guest), MANIFEST, joined=_joined()))
    await asyncio.sleep(0.01)
    leave, mount, configure, listed = guest.asked
    assert isinstance(leave, m.Configure) and leave.copied and leave.entropy
    assert isinstance(configure, m.Configure) and not configure.copied and configure.entropy != leave.entropy
    assert mount == m.Shares(mount=True) and listed == m.List()
    await making
    assert guest.asked[4:] == [m.Freeze(ALIVE), m.Freeze(thaw=True)]


@pytest.mark.parametrize("is_there", [True, False])
async def test_it_leaves_what_it_was_whether_its_network_is_there_or_not(is_there: bool) -> None:
    guest = Guest(())
    joined: Any = asyncio.get_running_loop().create_future()
    if is_there:
        joined.set_result(None)
    making = asyncio.ensure_future(copies._assume_identity(_pod(guest), MANIFEST, joined=joined))
    if not is_there:
        await asyncio.wait({making}, timeout=0.1)
        assert [type(op) for op in guest.asked] == [m.Configure, m.Shares]
        joined.set_result(None)
    await making
    assert [type(op) for op in guest.asked] == [m.Configure, m.Shares, m.Configure, m.List, m.Freeze]


async def test_however_many_containers_it_lists_it_gets_one_limit() -> None:
    """Each request would have one of its own."""
    guest = Guest(tuple(m.Container(f"{number:064}", m.RUNNING) for number in range(10_000)), pause_s=0.05)
    with pytest.raises(TimedOut, match="default/copy"):
        await copies._assume_identity(_pod(guest, limit_s=0.5), MANIFEST, joined=_joined())
    assert len(guest.asked) < 20
