# SPDX-License-Identifier: Apache-2.0
"""The network's budget of docs/dev/budgets.md but for bare times: processes, spread, and no leak by twenty at once."""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.fakes.outer_net import BIN_DIR

spec = importlib.util.spec_from_file_location("bench_network", Path(__file__).with_name("network.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.bench


def test_a_pods_network_stays_within_its_budget() -> None:
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    result = bench.measure(8)
    assert result["processes"] <= bench.BUDGET_PROCESSES
    assert result["at_once"]["p95_ms"] <= bench.BUDGET_SPREAD * result["at_once"]["p50_ms"]
    assert result["leaked"] is False
