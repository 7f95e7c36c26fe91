# SPDX-License-Identifier: Apache-2.0
"""The table of states and moves is the one that docs/dev/cri.md draws, and it is whole."""

import re
from pathlib import Path

import pytest

from cri.containers import order
from stage1.pod import states

PAGE = Path(__file__).parents[3] / "docs/dev/cri.md"


def drawn(heading: str) -> dict[str, dict[str, str]]:
    """The first table below the heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    rows = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(.*)\|$", text, re.MULTILINE)]
    phases, result = rows[0][1:], {}
    for row in rows[2:]:
        if len(row) != len(phases) + 1:
            break
        result[row[0]] = dict(zip(phases, row[1:], strict=True))
    return result


@pytest.mark.parametrize(("heading", "table"), [("Containers", order.CONTAINERS), ("Pods", order.PODS)])
def test_the_page_draws_the_table(heading: str, table: dict[str, dict[str, str]]) -> None:
    assert drawn(heading) == table


def test_every_call_has_an_answer_in_every_phase() -> None:
    containers = {states.CREATED, order.STARTING, states.RUNNING, states.EXITED, order.REMOVING}
    assert all(set(row) == containers for row in order.CONTAINERS.values())
    pods = {states.READY, states.STOPPING, states.DEAD, order.REMOVING}
    assert all(set(row) == pods for row in order.PODS.values())
    answers = {order.GO, order.NOTHING, order.AFTER, order.REFUSED}
    assert {
        one for table in (order.CONTAINERS, order.PODS) for row in table.values() for one in row.values()
    } == answers
