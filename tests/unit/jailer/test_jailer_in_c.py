# SPDX-License-Identifier: Apache-2.0
"""Builds the jailer and runs its C tests (check_description.c in this directory). tests/unit/vm/test_jail.py
runs it.
"""

from tests.fakes.c_program import CProgram, marks

JAILER = CProgram("jailer")
LIMIT_BYTES = 60 * 1024

pytestmark = marks("make", "musl-gcc", "gcc")


def test_the_jailer_builds_without_warnings_and_is_small() -> None:
    JAILER.make("all")
    assert (JAILER.out / "jailer").stat().st_size <= LIMIT_BYTES


def test_the_jailer_needs_no_library() -> None:
    assert "INTERP" not in JAILER.headers("jailer")


def test_the_parser_keeps_its_promises() -> None:
    assert " cases\n" in JAILER.make("check")
