# SPDX-License-Identifier: Apache-2.0
"""The daemon's budgets of docs/dev/budgets.md with many pods: lists, statuses, stats, a command, memory."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_cri_load", Path(__file__).with_name("cri_load.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.bench


async def test_the_daemon_with_many_pods_keeps_its_budgets() -> None:
    result = await bench.measure(10)
    assert result.keys() == bench.BUDGETS.keys()
    assert {name: value for name, value in result.items() if not 0 < value <= bench.BUDGETS[name]} == {}
