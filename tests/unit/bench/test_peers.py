# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench peers`, without runtimes: which thread is the guest's, and what becomes of the samples."""

import importlib.util
from pathlib import Path

import pytest

from tests.bench.lib.peers_images import Images
from tests.bench.lib.peers_runtimes import Usage, parted
from tests.bench.lib.peers_turns import QUICK, Sample, Size

spec = importlib.util.spec_from_file_location("bench_peers", Path(__file__).parents[2] / "bench" / "peers.py")
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.mark.parametrize(
    ("names", "spent", "parts"),
    [
        ({7: "qemu", 8: "qemu", 9: "qemu"}, {7: 30.0, 8: 1.0, 9: 20.0}, (31.0, 20.0)),
        ({7: "qemu", 8: "CPU 0/TCG", 9: "CPU 1/TCG"}, {7: 30.0, 8: 1.0, 9: 20.0}, (30.0, 21.0)),
        ({7: "qemu"}, {7: 3.0}, (3.0, 0.0)),
    ],
)
def test_the_guests_threads_are_named_or_the_busiest_that_the_vmm_has_started(
    names: dict[int, str], spent: dict[int, float], parts: tuple[float, float]
) -> None:
    assert parted(7, names, spent) == parts


def test_what_a_vmm_took_before_does_not_count_and_one_that_has_ended_counts_no_more() -> None:
    before = Usage(100.0, {1: (5.0, 50.0), 2: (3.0, 30.0)})
    assert Usage(110.0, {1: (6.0, 55.0), 3: (2.0, 20.0)}).since(before) == (10.0, 3.0, 25.0)


def test_the_report_has_each_operation_of_each_runtime_and_where_its_time_went() -> None:
    samples = [Sample(float(ms), 2.0, 1.0, 5.0) for ms in range(1, 11)]
    report = bench.operations({"ExecSync": {"clearpod": samples, "containerd": samples[:2]}})
    assert report["ExecSync"]["clearpod"] == {
        "median": 5.5, "p90": 10.0, "daemon_ms": 2.0, "host_ms": 3.0, "guest_ms": 5.0, "waiting_ms": 0.0
    }  # fmt: skip
    assert bench.ratios(report["ExecSync"]) == (pytest.approx(5.5 / 1.5), None)
    assert "3.67" in bench.text({"load": 1.0, "operations": report, "idle": {}})


def test_the_hosts_part_is_compared_with_all_that_containerd_takes_of_it() -> None:
    ours, peers = [Sample(100.0, 6.0, 3.0, 80.0)], [Sample(20.0, 5.0, 0.0, 0.0)]
    report = bench.operations({"CreateContainer": {"clearpod": ours, "pool": ours, "containerd": peers}})
    times = {"median": 5.0, "host": 1.8, "daemon": 1.2, "host_in_all": 0.45}
    assert bench.times(report) == {"CreateContainer": {"clearpod": times, "pool": times}}
    idle = bench.operations(
        {"Version": {"clearpod": ours}, "Status": {"clearpod": ours, "containerd": [Sample(0, 0, 0, 0)]}}
    )
    assert bench.times(idle) == {}, "nothing to compare with"


def test_logs_are_called_by_their_size_and_a_quick_run_is_smaller_in_all() -> None:
    assert Size().log_mib == 100 and all(small < large for small, large in zip(QUICK, Size(), strict=True))
    assert len(set(Images._fields)) == 3
