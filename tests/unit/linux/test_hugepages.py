# SPDX-License-Identifier: Apache-2.0
"""A program started in the block has no huge pages, and nobody else loses them."""

import os
import sys

import pytest

from stage1.linux import hugepages, process

ASK = "import ctypes; print(ctypes.CDLL(None).prctl(42, 0, 0, 0, 0))"


def forbidden_in_child(*, huge_pages: bool) -> str:
    """1 when a program that is started now may not have them; it is started through another one, as VMMs are."""
    read, write = os.pipe()
    with hugepages.Starting(huge_pages=huge_pages):
        pid = process.spawn(["/usr/bin/env", sys.executable, "-c", ASK], stdout=write)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said.strip()


@pytest.mark.parametrize(("huge_pages", "expected"), [(False, "1"), (True, "0")])
def test_the_answer_reaches_the_program_and_not_us(huge_pages: bool, expected: str) -> None:
    assert forbidden_in_child(huge_pages=huge_pages) == expected
    assert forbidden_in_child(huge_pages=True) == "0"


def test_who_has_none_already_stays_without() -> None:
    hugepages.forbid(1)
    try:
        assert forbidden_in_child(huge_pages=False) == "1"
        assert forbidden_in_child(huge_pages=True) == "1"
    finally:
        assert hugepages.forbid(0) == 1


def test_a_failed_start_leaves_no_trace() -> None:
    with pytest.raises(KeyError), hugepages.Starting(huge_pages=False):
        raise KeyError
    assert forbidden_in_child(huge_pages=True) == "0"
