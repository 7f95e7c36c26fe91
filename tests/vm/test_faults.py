# SPDX-License-Identifier: Apache-2.0
"""Fault points: every operation has some, each has a name, and a part of `scripts/faults` with real VMs."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from cri.call_log import QUIET
from cri.server import SERVICES, functions
from tests.faults import main, points
from tests.faults.harness import CHILD, DAEMON, VMM, victims
from tests.faults.main import Selection
from tests.faults.operations import OPERATIONS, STARTS
from tests.faults.points import Orders, Points
from tests.faults.saves import SAVES
from tests.faults.templates import TEMPLATES

OF_ONE_STEP = {
    "UpdateRuntimeConfig": "nothing is kept",
    "KillContainer": "sends one signal",
    "WaitContainer": "only waits",
    "CheckpointContainer": "refused",
    "Exec": "gives a URL; what runs there is what ExecSync runs",
    "Attach": "gives a URL",
    "PortForward": "gives a URL",
    "GetContainerEvents": "only tells",
    "ListSnapshots": "the same",
    "ShowSnapshot": "the same",
}
EVERY = 70


def test_every_operation_that_changes_something_is_in_the_matrix() -> None:
    ours = functions("clearpod.v1.Pods").keys()
    changing = {name for one in SERVICES for name in functions(one) if not QUIET.match(name)} | ours
    known = {operation.name for operation in (*OPERATIONS, *SAVES, *TEMPLATES)} | OF_ONE_STEP.keys()
    assert changing - known == set(), "add an Operation, or say why it has one step only"
    assert {re.split(" of | with | as ", name)[0] for name in known} - changing == {STARTS}


@pytest.mark.vm
@pytest.mark.only_on("qemu", "what is killed is the daemon and processes, whatever they are")
@pytest.mark.timeout(1200)
def test_deaths_at_fault_points_lose_and_leave_nothing(hypervisor: str, guest_dir: Path) -> None:
    assert hypervisor == "qemu"
    report = main.run(guest_dir, "kills", selection=Selection(every=EVERY))
    assert report.bad() == []
    assert [name for name, result in report.points.items() if not result] == [], "operations without a point"
    assert len(report.outcomes) >= len(OPERATIONS)
    figures = report.figures()
    assert (figures["lost"], figures["leaked"], figures["neighbours_hurt"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "event, args, step",
    [
        ("open", ("/x", "w", os.O_WRONLY | os.O_CREAT), "write"),
        ("open", ("/x", "r", os.O_RDONLY), ""),
        ("open", ("/dev/null", None, os.O_RDWR), ""),
        ("clearpod.open", ("x", os.O_RDWR), "write"),
        ("clearpod.open", ("x", os.O_RDONLY | os.O_DIRECTORY), ""),
        ("os.rename", ("a", "b", -1, -1), "rename"),
        ("os.posix_spawn", ("sh", [], {}), "spawn"),
        ("clearpod.libc", ("mount", 1), "mount"),
        ("clearpod.libc", ("syscall", 429), "move_mount"),
        ("clearpod.libc", ("syscall", 437), ""),
        ("clearpod.libc", ("prctl",), ""),
        ("clearpod.call", ("Start",), "asks Start"),
        ("clearpod.monitor", ("stop",), "asks monitor stop"),
        ("clearpod.monitor", ("query-migrate",), ""),
        ("import", ("x",), ""),
    ],
)
def test_a_step_is_what_changes_something(event: str, args: tuple[Any, ...], step: str) -> None:
    assert points.step(event, args) == step


def test_a_point_is_named_by_its_process_and_counted_anew_with_each_request(tmp_path: Path) -> None:
    seen = Points(tmp_path)
    seen._pass("engine.prepare mkdir")
    points.arm(tmp_path, Orders("1"))
    for step in ("a write", "b write", "a write"):
        seen._pass(step)
    points.arm(tmp_path, Orders("2"))
    seen._pass("a write")
    assert points.noted(tmp_path, "1") == ["a write", "b write", "a write 2"]
    assert points.noted(tmp_path, "2") == ["a write"] and points.noted(tmp_path, "3") == []
    assert points.taker(None) == ""


def test_who_can_die_at_a_point() -> None:
    assert victims("net.plugins.Runner._exec spawn 2") == (DAEMON, CHILD)
    assert victims("pods.containers.start asks Start") == (DAEMON, VMM)
    assert victims("engine.prepare mkdir") == (DAEMON,)
