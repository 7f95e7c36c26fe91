# SPDX-License-Identifier: Apache-2.0
"""The budgets of docs/dev/budgets.md about memory that hold with any hypervisor, with a few pods under QEMU.

Those of merged guests are kvmtool's and need the lab: `scripts/bench density`. KSM is not touched here.
"""

import importlib.util
from pathlib import Path

import pytest

from tests.bench.lib.pods import Setup

spec = importlib.util.spec_from_file_location("bench_density", Path(__file__).with_name("density.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = [pytest.mark.bench, pytest.mark.vm]

PODS = 12
"""So many that what the first ones make the daemon load weighs little."""


async def test_nothing_of_a_pod_is_resident_but_its_vmm_and_a_little_of_the_daemon(guest_dir):
    row = await bench.measure(bench.Plan(PODS, False, Setup("qemu")), ksm_limit_s=0, settle_s=2)
    assert row["ready"] == PODS
    assert row["resident_beside"] == []
    assert 0 < row["daemon_mib_per_pod"] <= bench.DAEMON_MIB
    assert row["before"]["huge"] == 0
    assert row["before"]["guest"] < row["memory_mib"] / 2, "an idle guest has not touched most of its memory"


async def test_pods_that_serve_a_page_answer_and_are_counted(guest_dir):
    row = await bench.measure(bench.Plan(2, True, Setup("qemu")), ksm_limit_s=0, settle_s=1)
    assert (row["ready"], row["serving"]) == (2, True)
    assert row["before"]["unique"] > row["before"]["page_tables"] > 0
