# SPDX-License-Identifier: Apache-2.0
"""A part of `scripts/faults --part saves` and `--part templates`: deaths while guests are saved and loaded, with real
VMs.
"""

from pathlib import Path

import pytest

from tests.faults import main
from tests.faults.main import Selection
from tests.faults.saves import SAVES
from tests.faults.templates import TEMPLATES

PARTS = {"saves": (SAVES, 150), "templates": (TEMPLATES, 150)}
"""What is done, and which cases of it."""


@pytest.mark.vm
@pytest.mark.only_on("qemu", "kvmtool can't save a guest")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", PARTS)
def test_deaths_while_a_guest_is_saved_or_loaded_lose_and_leave_nothing(
    hypervisor: str, guest_dir: Path, part: str
) -> None:
    assert hypervisor == "qemu"
    operations, every = PARTS[part]
    report = main.run(guest_dir, part, selection=Selection(every=every))
    assert report.bad() == []
    assert [name for name, result in report.points.items() if not result] == [], "operations without a point"
    assert len(report.outcomes) >= len(operations)
    figures = report.figures()
    assert (figures["lost"], figures["leaked"], figures["neighbours_hurt"]) == (0, 0, 0)
