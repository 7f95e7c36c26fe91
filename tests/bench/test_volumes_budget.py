# SPDX-License-Identifier: Apache-2.0
"""The budget of docs/dev/budgets.md for small files: an empty volume under rkt relative to a directory of the host."""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.vm.agent_machine import missing

spec = importlib.util.spec_from_file_location("bench_volumes", Path(__file__).with_name("volumes.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = [pytest.mark.bench, pytest.mark.skipif(os.geteuid() != 0, reason="rkt's fake mounts overlays: needs root")]


def test_small_files_on_an_empty_volume_take_a_fraction_of_the_time(tmp_path: Path) -> None:
    if lacks := missing():
        pytest.skip(lacks)
    places = bench.app(tmp_path, ["40", "12"])  # short rounds, of which some are not disturbed
    assert places["host"]["times"] >= bench.BUDGET_TIMES * places["empty"]["times"], places
    assert places["host"]["stat"] >= bench.BUDGET_TIMES * places["root"]["stat"], "the guest knows of its own files"
