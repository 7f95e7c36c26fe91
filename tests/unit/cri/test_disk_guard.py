# SPDX-License-Identifier: Apache-2.0
"""Which pods may be held when the disk is nearly full: those of which nobody waits for an answer."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cri.live.transfer import Transfer
from cri.monitors.disk_guard import is_guarded


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"is_ready": False}, False),
        ({"is_suspended": True}, False),
        ({"vm": None}, False),
        ({"record": SimpleNamespace(pod=SimpleNamespace(host=("network",)))}, False),
    ],
)
async def test_a_pod_that_runs_may_be_held(change: dict[str, Any], expected: bool) -> None:
    pod: Any = SimpleNamespace(
        is_ready=True, is_suspended=False, adopted=asyncio.Event(), transfer=Transfer(), vm=object(),
        record=SimpleNamespace(pod=SimpleNamespace(host=())),
    )  # fmt: skip
    assert not is_guarded(pod), "it is being adopted"
    pod.adopted.set()
    vars(pod).update(change)
    assert is_guarded(pod) == expected
    with pod.transfer.under_way():
        assert not is_guarded(pod), "who saves it asks its VMM"
    assert is_guarded(pod) == expected
