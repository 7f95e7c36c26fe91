# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the C tests of the guest's agent (check_*.c beside this file), its fuzzer and the agent itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
SOURCES = CHECKOUT / "images" / "agent"
OUT = CHECKOUT / "build" / "agent"  # kept between runs: make rebuilds only what changed
LIMIT_BYTES = 150 * 1024
TOOLS = ("make", "musl-gcc", "nanopb_generator")
ABSENT = [tool for tool in TOOLS if not shutil.which(tool)]

pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
    pytest.mark.timeout(300),
]


def make(*targets: str) -> str:
    """Run make; its output is the failure's text."""
    done = subprocess.run(["make", "-C", SOURCES, f"OUT={OUT}", *targets], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_agent_builds_without_warnings_and_is_small() -> None:
    make("all")
    assert (OUT / "agent").stat().st_size <= LIMIT_BYTES


def test_the_agent_needs_no_library() -> None:
    make("all")
    headers = subprocess.run(["readelf", "-lW", OUT / "agent"], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers


def test_the_agent_for_systemd_wraps_just_what_it_says() -> None:
    make("all")
    said = re.search(r"^WRAPPED := ((?:.*\\\n)*.*)", (SOURCES / "Makefile").read_text(), re.MULTILINE)
    assert said
    defined = subprocess.run(["nm", *(OUT / "obj/systemd").glob("*.o")], capture_output=True, text=True, check=True)
    assert set(re.findall(r" T __wrap_(\w+)", defined.stdout)) == set(said[1].replace("\\", "").split())
    assert b"app@%s" not in (OUT / "agent").read_bytes() and b"app@%s" in (OUT / "agent-systemd").read_bytes()
    assert (OUT / "agent-systemd").stat().st_size <= 176 * 1024


def test_the_pure_parts_keep_their_promises() -> None:
    assert " cases\n" in make("check")


def test_the_fuzzer_finds_nothing_in_a_short_run() -> None:
    if not any(shutil.which(name) for name in ("clang", "clang-19", "clang-18", "clang-17")):
        pytest.skip("libFuzzer comes with clang, which is not installed")
    make("fuzz")
    done = subprocess.run(
        [OUT / "fuzz_link", "-seed=1", "-runs=20000", "-max_len=4096", f"-artifact_prefix={OUT}/"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
