# SPDX-License-Identifier: Apache-2.0
"""The budget of docs/dev/budgets.md for kvmtool, relative to QEMU in one machine. Minutes: run by `pytest -m bench`."""

import argparse

import pytest

from tests.bench.lib import baseline
from tests.bench.nested import command, report

pytestmark = [pytest.mark.bench, pytest.mark.kvmtool, pytest.mark.timeout(command.machine.LIMIT_S)]

REPEATS_WITHIN = 0.01


@pytest.fixture(scope="module")
def figures(guest_dir):
    args = argparse.Namespace(repeat=2, long_repeat=1, strings=False, only=[], keep=None)
    return command.measure(guest_dir, command.find_lkvm([]), args)


def test_kvmtool_is_ready_in_time_and_well_before_the_others(figures):
    assert figures["lacking"] == []
    assert {f"{name}_by_lkvm" for name in ("microvm", "q35_debian")} <= set(figures)
    assert report.broken(figures) == []


def test_a_start_takes_as_many_instructions_as_another(figures):
    most, least = figures["lkvm_exec_to_init_ms_max"], figures["lkvm_exec_to_init_ms_min"]
    assert most - least < REPEATS_WITHIN * least


def test_kvmtool_is_not_slower_than_its_baseline(figures, guest_dir):
    name = command.baseline_key(guest_dir)
    if (base := baseline.read(name)) is None:
        pytest.skip(f"there is no baseline for {name} (scripts/bench boot --lab --update-baseline makes one)")
    assert baseline.worse(command.gated(figures), base) == []
