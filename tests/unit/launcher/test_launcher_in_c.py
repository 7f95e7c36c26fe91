# SPDX-License-Identifier: Apache-2.0
"""Builds the launcher and runs its C tests (check_launcher.c in this directory)."""

from tests.fakes.c_program import CProgram, marks

LAUNCHER = CProgram("launcher")
LIMIT_BYTES = 60 * 1024

pytestmark = marks("make", "musl-gcc", "gcc")


def test_the_launcher_builds_without_warnings_and_is_small() -> None:
    LAUNCHER.make("all")
    assert (LAUNCHER.out / "launcher").stat().st_size <= LIMIT_BYTES


def test_the_launcher_needs_no_library() -> None:
    assert "INTERP" not in LAUNCHER.headers("launcher")


def test_the_pure_parts_keep_their_promises() -> None:
    assert " cases\n" in LAUNCHER.make("check")
