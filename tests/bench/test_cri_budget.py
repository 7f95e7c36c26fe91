# SPDX-License-Identifier: Apache-2.0
"""The daemon's budget of docs/dev/budgets.md: a pod's start without the boot."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_cri", Path(__file__).with_name("cri.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.bench


async def test_a_pod_starts_within_the_daemons_budget() -> None:
    result = await bench.measure_here(10)
    assert 0 < result["pod_start_overhead_ms"]["median"] <= bench.BUDGET_MS
