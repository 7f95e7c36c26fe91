# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the C tests of the guest's agent (check_*.c beside this file), its fuzzer and the agent itself."""

import re
import shutil
import subprocess

import pytest

from tests.fakes.c_program import CProgram, marks

AGENT = CProgram("agent")
LIMIT_BYTES = 150 * 1024

pytestmark = marks("make", "musl-gcc", "nanopb_generator")


def test_the_agent_builds_without_warnings_and_is_small() -> None:
    AGENT.make("all")
    assert (AGENT.out / "agent").stat().st_size <= LIMIT_BYTES


def test_the_agent_needs_no_library() -> None:
    assert "INTERP" not in AGENT.headers("agent")


def test_the_agent_for_systemd_wraps_just_what_it_says() -> None:
    AGENT.make("all")
    said = re.search(r"^WRAPPED := ((?:.*\\\n)*.*)", (AGENT.sources / "Makefile").read_text(), re.MULTILINE)
    assert said
    defined = subprocess.run(
        ["nm", *(AGENT.out / "obj/systemd").glob("*.o")], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r" T __wrap_(\w+)", defined.stdout)) == set(said[1].replace("\\", "").split())
    assert (
        b"app@%s" not in (AGENT.out / "agent").read_bytes() and b"app@%s" in (AGENT.out / "agent-systemd").read_bytes()
    )
    assert (AGENT.out / "agent-systemd").stat().st_size <= 176 * 1024


def test_the_pure_parts_keep_their_promises() -> None:
    assert " cases\n" in AGENT.make("check")


def test_the_fuzzer_finds_nothing_in_a_short_run() -> None:
    if not any(shutil.which(name) for name in ("clang", "clang-19", "clang-18", "clang-17")):
        pytest.skip("libFuzzer comes with clang, which is not installed")
    AGENT.make("fuzz")
    done = subprocess.run(
        [AGENT.out / "fuzz_link", "-seed=1", "-runs=20000", "-max_len=4096", f"-artifact_prefix={AGENT.out}/"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
