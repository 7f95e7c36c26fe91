# SPDX-License-Identifier: Apache-2.0
"""The boot budgets of docs/budgets.md, in instructions, and the sizes of what is booted.

Deterministic, so these run with the tests and not only with the benchmarks.
"""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_boot", Path(__file__).with_name("boot.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.vm

KERNEL_TO_INIT_MS = 30
INIT_TO_READY_MS = 10
INITRAMFS_BYTES = 1 << 20
AGENT_BYTES = 150 * 1000


@pytest.fixture(scope="module")
def boot(tmp_path_factory, guest_dir):
    return bench.boot(bench.clearpod_argv(str(tmp_path_factory.mktemp("bench"))))


def test_the_kernel_reaches_pid_1_within_its_budget(boot):
    assert 0 < boot.init_ms <= KERNEL_TO_INIT_MS


def test_the_agent_is_ready_within_its_budget(boot):
    assert 0 < boot.ready_ms <= INIT_TO_READY_MS


def test_what_is_booted_stays_small(guest_dir):
    assert (Path(guest_dir) / "initramfs").stat().st_size <= INITRAMFS_BYTES
    assert (Path(guest_dir) / "agent").stat().st_size <= AGENT_BYTES
