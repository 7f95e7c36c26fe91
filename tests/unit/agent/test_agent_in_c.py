# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the C tests of the guest's agent (check_*.c in this directory), its fuzzer and the agent itself."""

import shutil
import subprocess

import pytest

from tests.fakes.c_program import CProgram, marks

AGENT = CProgram("agent")
LIMIT_BYTES = 151 * 1024

pytestmark = marks("make", "musl-gcc", "nanopb_generator")


def test_the_agent_builds_without_warnings_and_is_small() -> None:
    AGENT.make("all")
    assert (AGENT.out / "agent").stat().st_size <= LIMIT_BYTES


def test_the_agent_needs_no_library() -> None:
    assert "INTERP" not in AGENT.headers("agent")


def test_each_program_has_only_what_its_profile_needs() -> None:
    AGENT.make("all")
    plain, systemd = ((AGENT.out / name).read_bytes() for name in ("agent", "agent-systemd"))
    assert b"app@%s" not in plain and b"app@%s" in systemd
    assert b"--directory=" in plain and b"--directory=" not in systemd
    assert len(systemd) <= 176 * 1024


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
