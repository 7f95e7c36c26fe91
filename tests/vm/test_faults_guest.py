# SPDX-License-Identifier: Apache-2.0
"""Deaths of the agent's helpers and of crun in a guest: a part of `scripts/faults --part guest`."""

import pytest

from tests.faults import main
from tests.faults.main import Selection
from tests.vm.agent_machine import missing

EVERY = 40


@pytest.mark.vm
@pytest.mark.only_on("qemu", "what is killed is in the guest, whatever runs it")
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(missing()), reason=missing() or "all there")
def test_kills_in_a_guest_are_reported_and_leave_nothing(hypervisor: str) -> None:
    assert hypervisor == "qemu"
    report = main.run(main.GUEST, "guest", selection=Selection(every=EVERY))
    assert report.bad() == []
    assert all(report.points.values()) and len(report.points) == 5
    assert sum(not one.missed for one in report.outcomes) >= 5
