# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench node` with few pods: it measures, leaves nothing, and the lists keep their budgets."""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.fakes import places

spec = importlib.util.spec_from_file_location("bench_node", Path(__file__).with_name("node.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.bench


async def test_lists_of_a_node_under_load_keep_their_budgets_and_nothing_is_left() -> None:
    result = await bench.measure(20, 0.1)
    assert result["pods"] == 20 and len(result["list_pods_ms"]) == 2 and result["rss_mib"] > 10
    assert {name for name in bench.exceeded(result) if name != "daemon_cpu_percent"} == set()
    assert not [name for name in os.listdir(places.ROOT) if name.startswith(places.short_name("cpn"))]
