# SPDX-License-Identifier: Apache-2.0
"""Each fuzzer for a second from its corpus, which is tried whole; `scripts/fuzz NAME SECONDS` is for more.

A finding's input is kept in build/fuzz; put it into tests/fuzz/corpus/NAME with the fix, and it will be tried for ever.
"""

import re
import shutil
import subprocess
import sys

import pytest

from tests.fuzz.run import CHECKOUT, PROGRAMS, corpora
from tests.fuzz.targets import TARGETS

SECONDS = 1
"""To start one and to build one takes a while too."""
LEAST_RUNS = 100
BUILD_S = 240


@pytest.mark.parametrize("name", [*TARGETS, *PROGRAMS])
def test_every_input_is_one_that_a_parser_expects(name: str) -> None:
    if name in PROGRAMS and not any(map(shutil.which, ("clang", "clang-19", "clang-18", "clang-17"))):
        pytest.skip("libFuzzer comes with clang: apt install clang-19 libclang-rt-19-dev")
    argv = [sys.executable, "-m", "tests.fuzz.run", name, str(SECONDS)]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert runs and int(runs[1]) >= LEAST_RUNS, done.stderr[-1000:]


@pytest.mark.parametrize("name", [*TARGETS, *PROGRAMS])
def test_every_fuzzer_begins_with_a_corpus(name: str) -> None:
    assert len(corpora(name)) == 2
