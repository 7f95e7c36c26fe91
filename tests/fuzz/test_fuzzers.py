# SPDX-License-Identifier: Apache-2.0
"""Each fuzzer for some thousand inputs, its whole corpus first; `scripts/fuzz NAME SECONDS` is for more.

A failing input is kept in build/fuzz; put it into tests/fuzz/corpus/NAME with the fix, so that every run includes it.
"""

import re
import shutil
import subprocess
import sys

import pytest

from tests.fuzz.run import CHECKOUT, PROGRAMS, corpora
from tests.fuzz.targets import TARGETS

RUNS, PROGRAM_RUNS = 3000, 30_000
"""Inputs of a fuzzer in Python, which take half a second of a processor, and of one in C."""
MOST_S = 60
"""On a machine that is too slow for as many."""
LEAST_RUNS = 100
BUILD_S = 240


@pytest.mark.parametrize("name", [*TARGETS, *PROGRAMS])
def test_every_input_is_one_that_a_parser_expects(name: str) -> None:
    if name in PROGRAMS and not any(map(shutil.which, ("clang", "clang-19", "clang-18", "clang-17"))):
        pytest.skip("libFuzzer comes with clang: apt install clang-19 libclang-rt-19-dev")
    runs = PROGRAM_RUNS if name in PROGRAMS else RUNS
    # A shell between: libFuzzer limits the peak of memory, which a process inherits over exec from the one that starts
    # it, and one that has run other tests may have more than that.
    fuzzer = [sys.executable, "-m", "tests.fuzz.run", name, str(MOST_S), f"-runs={runs}"]
    argv = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *fuzzer]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert ran and int(ran[1]) >= LEAST_RUNS, done.stderr[-1000:]


@pytest.mark.parametrize("name", [*TARGETS, *PROGRAMS])
def test_every_fuzzer_begins_with_a_corpus(name: str) -> None:
    assert len(corpora(name)) == 2
