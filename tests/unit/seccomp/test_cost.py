# SPDX-License-Identifier: Apache-2.0
"""How many instructions the filters take for the calls that a VMM makes most, and what they answer for all numbers."""

import errno
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.seccomp.test_filters import FILTERS, LOADED, built, pytestmark

CLOSING = "kvmtool-closing"

__all__ = ["built", "pytestmark"]

BOOT_INSTRUCTIONS = 44_100_000
"""From exec of kvmtool to a ready agent, and how often it makes KVM_RUN meanwhile: docs/dev/benchmarks.md."""
BOOT_EXITS = 2195
BUDGET = 0.02

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86_64 = 0xC000003E
STRICTNESS = (ALLOW, ERRNO | errno.ENOSYS, ERRNO | errno.EPERM, ERRNO | errno.EAFNOSUPPORT, KILL)
KVM_RUN = (16, (3, 0xAE80, 0))
HOT = {
    "read": (0, ()),
    "write": (1, ()),
    "futex": (202, ()),
    "ppoll": (271, ()),
    "pread64": (17, ()),
    "readv": (19, ()),
}

Line = tuple[int, int, int, int]


class Answer(NamedTuple):
    """What a filter answers, after so many instructions."""

    action: int
    instructions: int


def load(path: Path) -> list[Line]:
    """The instructions: code, jump if true, jump if false, constant."""
    return [*struct.iter_unpack("HBBI", path.read_bytes())]


def ask(lines: list[Line], number: int, arguments: tuple[int, ...] = ()) -> Answer:
    """Run a filter, as far as libseccomp's output goes."""
    data = struct.pack("<IIQ6Q", number, X86_64, 0, *(*arguments, *(0,) * (6 - len(arguments))))
    at = taken = value = 0
    while True:
        code, yes, no, constant = lines[at]
        at, taken = at + 1, taken + 1
        match code:
            case 0x20:
                value = int.from_bytes(data[constant : constant + 4], "little")
            case 0x54:
                value &= constant
            case 0x05:
                at += constant
            case 0x15:
                at += yes if value == constant else no
            case 0x25:
                at += yes if value > constant else no
            case 0x35:
                at += yes if value >= constant else no
            case 0x06:
                return Answer(constant, taken)
            case _:
                raise AssertionError(f"instruction {code:#x} is not known here")


@pytest.mark.parametrize("name", FILTERS)
def test_frequent_calls_take_few_instructions(built: Path, name: str) -> None:
    lines = load(built / f"{name}.bpf")
    for number, arguments in HOT.values():
        assert ask(lines, number, arguments) <= Answer(ALLOW, 20)


def test_both_filters_together_take_less_of_kvmtools_boot_than_the_budget(built: Path) -> None:
    each = [ask(load(built / f"{name}.bpf"), *KVM_RUN) for name in ("seccomp-kvmtool", LOADED)]
    assert {answer.action for answer in each} == {ALLOW}
    assert sum(answer.instructions for answer in each) * BOOT_EXITS < BUDGET * BOOT_INSTRUCTIONS


@pytest.mark.parametrize("name", FILTERS)
def test_every_number_is_let_through_refused_in_two_ways_or_ends_the_vmm(built: Path, name: str) -> None:
    lines = load(built / f"{name}.bpf")
    answers = {number: ask(lines, number).action for number in range(4096)}
    assert set(answers.values()) <= {ALLOW, KILL, ERRNO | errno.ENOSYS, ERRNO | errno.EPERM}
    assert sum(action == ALLOW for action in answers.values()) < 220
    assert all(action == KILL for number, action in answers.items() if number > 470 or 335 <= number < 424)
    assert ask(lines, 0x40000000).action == ask(lines, 0x40000000 | 39).action == KILL


@pytest.mark.parametrize("first", range(64))
def test_what_only_takes_away_leaves_what_the_whole_list_does(built: Path, first: int) -> None:
    """For every call, with small numbers, protections, options and requests at each place where a filter looks."""
    whole, started, closing = (load(built / f"{name}.bpf") for name in (LOADED, "seccomp-kvmtool", CLOSING))
    values = (first, 0xAE80 + first, 0x5400 + first, 1 << first, (1 << 32) + first)
    for number in range(600):
        for arguments in ((value,) * 4 for value in values):
            answers = [ask(lines, number, arguments).action for lines in (started, closing)]
            assert max(answers, key=STRICTNESS.index) == ask(whole, number, arguments).action, (number, arguments)
    assert len(closing) < 40


def test_what_only_takes_away_answers_other_architectures_as_the_whole_list_does(built: Path) -> None:
    lines = load(built / f"{CLOSING}.bpf")
    assert ask(lines, 0x40000000 | 39).action == ask(load(built / f"{LOADED}.bpf"), 0x40000000 | 39).action
