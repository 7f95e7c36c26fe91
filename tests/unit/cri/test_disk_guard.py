# SPDX-License-Identifier: Apache-2.0
"""Which pods may be held when the disk is nearly full, and what of it is theirs."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cri.live.gate import Gate
from cri.monitors.disk_guard import is_guarded, measure
from tests.fakes.small_disk import small_disk

MIB = 1 << 20


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
        is_ready=True, is_suspended=False, adopted=asyncio.Event(), gate=Gate(), vm=object(),
        record=SimpleNamespace(pod=SimpleNamespace(host=())),
    )  # fmt: skip
    assert not is_guarded(pod), "it is being adopted"
    pod.adopted.set()
    vars(pod).update(change)
    assert is_guarded(pod) == expected
    with pod.gate.transferring():
        assert not is_guarded(pod), "who saves it asks its VMM"
    assert is_guarded(pod) == expected


@pytest.mark.parametrize("leave_mib", [1, 12])
def test_what_a_vmm_has_kept_open_counts_when_the_disk_is_nearly_full(tmp_path: Path, leave_mib: int) -> None:
    """A saved guest's file, which nobody finds by a name. Of 32 MiB 2 are kept, and 4 are enough."""
    with small_disk(tmp_path / "image", tmp_path / "disk", mib=32) as disk:
        scratch = disk.place / "scratch"
        scratch.mkdir()
        (scratch / "p.img").write_bytes(b"x" * MIB)
        with (scratch / "saved").open("wb") as kept:
            kept.write(b"x" * 4 * MIB)
            kept.flush()
            (scratch / "saved").unlink()
            disk.fill(leave=leave_mib * MIB)
            taken = measure(str(disk.place), {"p": os.getpid(), "none": 1}, keep_bytes=1 << 30).taken
    assert {pod: size // MIB for pod, size in taken.items()} == {"p": 1 + (4 if leave_mib == 1 else 0)}
