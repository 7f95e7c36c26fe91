# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench recovery` with few instant pods: it measures, leaves nothing, and keeps the budget."""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.fakes import places

spec = importlib.util.spec_from_file_location("bench_recovery", Path(__file__).with_name("recovery.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.bench


async def test_the_processor_time_of_a_recovery_is_within_its_budget_and_nothing_is_left() -> None:
    result = await bench.fake(100, 1)
    assert result["pods"] == 100 and 0 < result["serves_ms"] <= result["adopted_ms"]
    assert result["adopted_cpu_ms"] <= bench.BUDGETS["fake"]["adopted_ms"]
    assert not [name for name in os.listdir(places.ROOT) if name.startswith(places.short_name("cpr"))]
