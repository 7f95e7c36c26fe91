# SPDX-License-Identifier: Apache-2.0
"""The budget of docs/dev/budgets.md for rkt's `run`: instructions until the VMM starts, the network's part included."""

import importlib.util
import os
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_entry", Path(__file__).with_name("entry.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = [pytest.mark.bench, pytest.mark.skipif(os.geteuid() != 0, reason="rkt's fake mounts overlays: needs root")]


def test_run_stays_within_its_budget(tmp_path: Path, guest_dir: Path) -> None:
    if why := bench.missing():
        pytest.skip(why)
    result = bench.Bench(tmp_path, guest_dir).measure(0)
    assert 30_000_000 < result["run_instructions_without_network"] < result["run_instructions"] <= bench.BUDGET
    assert result["run_instructions_without_templates"] <= result["run_instructions_as_copy"] <= bench.BUDGET
