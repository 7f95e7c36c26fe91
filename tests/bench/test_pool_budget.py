# SPDX-License-Identifier: Apache-2.0
"""The budget of docs/dev/budgets.md for pods from the warm pool, as far as it can be counted on a busy machine.

`scripts/bench pool` measures the milliseconds.
"""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.fakes.outer_net import BIN_DIR

spec = importlib.util.spec_from_file_location("bench_pool", Path(__file__).with_name("pool.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = [pytest.mark.bench, pytest.mark.vm, pytest.mark.timeout(600)]


async def test_a_pod_out_of_the_pool_starts_no_process_and_waits_less_for_us_than_its_removal_for_the_plugins(
    guest_dir: Path,
) -> None:
    """The first plugin is called before, when the pool is filled."""
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    result = await bench.measure(4, 2)
    ran = result["run_pod_sandbox_ms"]
    assert ran["processes"] <= bench.BUDGET_PROCESSES and not (result["missed"] or result["died"] or result["leaked"])
    assert 0 < ran["median"] < result["removal_plugins_ms"]["median"], result
    assert result["plugins_ms"]["median"] < result["removal_plugins_ms"]["median"], result
