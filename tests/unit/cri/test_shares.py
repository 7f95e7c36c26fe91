# SPDX-License-Identifier: Apache-2.0
"""Unmounting the host's directories in a guest that still uses them: tried again for a while, then refused."""

import pytest

from cri.snapshots import suspension
from stage1.errors import AgentFailed, PodError, WrongState
from stage1.guest.messages import Shares


@pytest.mark.parametrize(
    ("refusals", "limit_s", "raised", "asked"),
    [
        ([], 5.0, None, 1),
        ([WrongState("the pod's volumes are in use")] * 3, 5.0, None, 4),
        ([WrongState("the pod's volumes are in use")] * 100, 0.0, WrongState, None),
        ([AgentFailed("no such file")], 5.0, AgentFailed, 1),
    ],
)
async def test_shares_that_are_in_use_for_a_moment_are_unmounted_then(
    refusals: list[PodError],
    limit_s: float,
    raised: type[PodError] | None,
    asked: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Shares] = []

    async def ask(op: Shares) -> None:
        seen.append(op)
        if len(seen) <= len(refusals):
            raise refusals[len(seen) - 1]

    monkeypatch.setattr(suspension, "SHARES_S", limit_s)
    if raised:
        with pytest.raises(raised):
            await suspension.unmount_shares(ask)
    else:
        await suspension.unmount_shares(ask)
    assert set(seen) == {Shares()}
    assert asked is None or len(seen) == asked
