# SPDX-License-Identifier: Apache-2.0
"""Guests of every size come up under kvmtool: each finds its system image at another moment of its boot.

In one machine that counts instructions, where a guest that fails does so each time. Minutes: run by `pytest -m bench`.
"""

from pathlib import Path

import pytest

from tests.bench.nested import command, machine, plan, report

pytestmark = [pytest.mark.bench, pytest.mark.kvmtool, pytest.mark.timeout(machine.LIMIT_S)]

SMALL = (48, 64, 96, 100, 128, 131, 192, 250, 256, 320, 333, 384, 448, 480, 500, 512)
LARGE = (640, 768, 1024, 1536, 2048, 3072, 3328, 3400, 4096)
MOST_EXITS = 1500
"""Of a guest of 1 GiB or less, from the start to the agent's mark."""


@pytest.fixture(scope="module")
def figures(guest_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    lkvm = command.find_lkvm([])
    if not lkvm:
        pytest.skip("lkvm is not on PATH")
    system, kernel = ((guest_dir / name).stat().st_size for name in ("system.erofs", "bzImage"))
    kinds = plan.sizes(system, kernel, (*SMALL, *LARGE))
    world = machine.world(guest_dir, lkvm, with_debian=False)
    console, traces = machine.run(world | plan.starts(kinds), tmp_path_factory.mktemp("sizes"))
    return report.figures(console, traces)


def test_each_size_comes_up(figures: dict[str, float]) -> None:
    assert figures["failures"] == []
    assert [mib for mib in (*SMALL, *LARGE) if not figures.get(f"lkvm_{mib}_starts")] == []


def test_a_size_that_is_odd_takes_few_exits_too(figures: dict[str, float]) -> None:
    exits = {mib: figures[f"lkvm_{mib}_exits"] for mib in SMALL}
    assert [mib for mib, count in exits.items() if count > MOST_EXITS] == []
