# SPDX-License-Identifier: Apache-2.0
"""The boot budgets of docs/dev/budgets.md, in instructions, and the sizes of what is booted.

Deterministic, so these run with the tests and not only with the benchmarks.
"""

import importlib.util
from pathlib import Path

import pytest

from tests.bench.lib import baseline

spec = importlib.util.spec_from_file_location("bench_boot", Path(__file__).with_name("boot.py"))
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

pytestmark = pytest.mark.vm

KERNEL_TO_INIT_MS = 15
INIT_TO_READY_MS = 5
SYSTEMD_TO_READY_MS = 90
REPEATS_WITHIN_MS = 1
BOOTS = 3
MORE_BOOTS = 7
"""At most, on a host so busy that the guest had to wait for its disk each time."""
INITRAMFS_BYTES = 1 << 20
AGENT_BYTES, SYSTEMD_AGENT_BYTES = 151 * 1024, 176 * 1024


def figures_of(boots, plain_boots):
    """The least of each."""
    return {
        "kernel_to_init_ms": min(boot.init_ms for boot in boots),
        "init_to_ready_ms": min(boot.ready_ms for boot in boots),
        "bzimage_kernel_to_init_ms": min(boot.init_ms for boot in plain_boots),
    }


@pytest.fixture(scope="module")
def boots(tmp_path_factory, guest_dir):
    """A busy host can add to a boot (see boot.py), never take away: the least of some is what the guest needs."""
    directory = str(tmp_path_factory.mktemp("bench"))
    return [bench.boot(bench.clearpod_argv(directory), directory) for _ in range(BOOTS)]


@pytest.fixture(scope="module")
def plain_boots(tmp_path_factory, guest_dir):
    """The same with the file that kvmtool loads."""
    directory = str(tmp_path_factory.mktemp("bench"))
    argv = bench.replace(bench.clearpod_argv(directory), "-kernel", str(guest_dir / "bzImage"))
    return [bench.boot(argv, directory) for _ in range(BOOTS)]


def test_the_kernel_reaches_pid_1_within_its_budget(boots):
    assert 0 < min(boot.init_ms for boot in boots) <= KERNEL_TO_INIT_MS


def test_the_agent_is_ready_within_its_budget(boots):
    assert 0 < min(boot.ready_ms for boot in boots) <= INIT_TO_READY_MS


def test_the_agent_is_ready_within_its_budget_where_systemd_starts_it(tmp_path, guest_dir):
    if not (Path(guest_dir) / "system-systemd.erofs").exists():
        pytest.skip("the profile systemd was not built: apt install systemd, then images/build systemd")
    argv = bench.clearpod_argv(str(tmp_path), "systemd")
    boots = [bench.boot(argv, str(tmp_path)) for _ in range(BOOTS)]
    assert 5 < min(boot.ready_ms for boot in boots) <= SYSTEMD_TO_READY_MS
    assert min(boot.init_ms for boot in boots) <= KERNEL_TO_INIT_MS


def test_the_file_for_kvmtool_reaches_pid_1_within_the_same_budget(plain_boots):
    """It would not by far if something had to be unpacked."""
    assert 0 < min(boot.init_ms for boot in plain_boots) <= KERNEL_TO_INIT_MS


def test_no_figure_is_worse_than_its_baseline(boots, plain_boots, guest_dir, tmp_path):
    name = baseline.key((Path(guest_dir) / "vmlinux").read_bytes())
    if (base := baseline.read(name)) is None:
        pytest.skip(f"there is no baseline for {name} (scripts/bench boot --update-baseline makes one); budgets hold")
    argv = bench.clearpod_argv(str(tmp_path))
    plain = bench.replace(argv, "-kernel", str(guest_dir / "bzImage"))
    for _ in range(MORE_BOOTS):
        if not baseline.worse(figures_of(boots, plain_boots), base):
            break
        boots.append(bench.boot(argv, str(tmp_path)))
        plain_boots.append(bench.boot(plain, str(tmp_path)))
    figures = figures_of(boots, plain_boots)
    assert set(figures) == set(bench.GATED)
    assert baseline.worse(figures, base) == []


def test_a_boot_takes_as_many_instructions_as_another(boots, tmp_path):
    for _ in range(MORE_BOOTS):
        least, next_least = sorted(boot.init_ms for boot in boots)[:2]
        if next_least - least < REPEATS_WITHIN_MS:
            break
        boots.append(bench.boot(bench.clearpod_argv(str(tmp_path)), str(tmp_path)))
    assert next_least - least < REPEATS_WITHIN_MS


def test_the_kernels_own_clock_misses_the_beginning_of_the_boot(boots):
    """Or the budget would be measured from the wrong place."""
    assert all(2 < boot.init_ms - boot.clock_ms < 15 for boot in boots)


def test_what_is_booted_stays_small(guest_dir):
    assert (Path(guest_dir) / "initramfs").stat().st_size <= INITRAMFS_BYTES
    assert (Path(guest_dir) / "agent").stat().st_size <= AGENT_BYTES
    with_systemd = Path(guest_dir) / "initramfs-systemd"
    assert not with_systemd.exists() or with_systemd.stat().st_size <= SYSTEMD_AGENT_BYTES + 1024
