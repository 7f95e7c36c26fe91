# SPDX-License-Identifier: Apache-2.0
"""The budget of docs/dev/budgets.md for what outlives a power cut: how often the start of a pod waits for the disk."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_fsync", Path(__file__).with_name("fsync.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.bench


async def test_the_start_of_a_pod_waits_for_the_disk_twice() -> None:
    result = await bench.starts_here(3)
    assert result["syncs"] == bench.BUDGET_SYNCS
