# SPDX-License-Identifier: Apache-2.0
"""docs/reference is generated from the code, current and complete. `scripts/gen-reference` writes it."""

import pytest

from tests.reference import configuration, decisions, main

pytestmark = pytest.mark.style


def test_the_reference_is_current() -> None:
    assert list(main.stale()) == [], "run scripts/gen-reference"


def test_every_key_of_the_configuration_has_a_meaning() -> None:
    assert [key.name for key in configuration.every_key() if not key.meaning] == []


def test_no_row_is_empty() -> None:
    for name, text in main.made().items():
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert not line.startswith("| `") or all(cells[:2]), f"{name}: {line}"


def test_every_decision_has_a_status() -> None:
    assert [one.file for one in decisions.decisions() if one.status == "?"] == [], (
        "tests/reference/decisions.py says the form"
    )


def test_numbers_of_decisions_are_unique() -> None:
    numbers = [one.number for one in decisions.decisions()]
    assert len(numbers) == len(set(numbers))
