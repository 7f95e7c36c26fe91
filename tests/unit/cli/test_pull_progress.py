# SPDX-License-Identifier: Apache-2.0
"""What a terminal shows of a pull."""

import io

import pytest

from cri.cli import progress, shown
from cri.cli.progress import Progress
from cri.image.convert import COMES, CONVERTS, DONE, HERE, WAITS, State

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
MIB = 1 << 20


def test_each_layer_has_a_line_and_the_image_has_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(progress, "_size", lambda to: (100, 24))
    screen = io.StringIO()
    one = Progress("r.io/a:1", screen)
    one.see(State(A, HERE, 0, 8 * MIB))
    one.see(State(B, WAITS, 0, 4 * MIB))
    now_s += 1
    one.see(State(B, COMES, 0, 4 * MIB))
    now_s += 1
    one.see(State(B, COMES, 2 * MIB, 4 * MIB))
    first, second, last = one.lines()
    assert first.split() == ["a" * 12, "already", "here", *shown.size(8 * MIB).split()]
    assert second.startswith("b" * 12) and second.endswith("50 %")
    assert f"{shown.size(MIB)}/s" in last and f"{shown.size(8 * MIB)} already here" in last
    now_s += 1
    one.see(State(B, CONVERTS, 0, 4 * MIB))
    one.see(State(B, DONE, 4 * MIB, 4 * MIB))
    one.end()
    assert f"{shown.size(4 * MIB)} downloaded in 3.0 s" in one.lines()[-1]
    assert screen.getvalue().count("\x1b[3A") >= 2, "in place"


def test_an_image_with_more_layers_than_lines_has_the_sum_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_size", lambda to: (40, 5))
    screen = io.StringIO()
    one = Progress("r.io/a:1", screen)
    for number in range(20):
        one.see(State(f"sha256:{number:064}", WAITS, 0, MIB))
    one.end()
    lines = screen.getvalue().replace("\x1b[J", "").split("\n")
    assert "r.io/a:1" in lines[-2] and all(len(line) < 60 for line in lines)
    one.end()
    assert screen.getvalue().endswith("\n") and "\x1b[1A" in screen.getvalue().split("\n")[-2]


def test_nothing_is_drawn_of_an_image_that_is_here() -> None:
    screen = io.StringIO()
    Progress("r.io/a:1", screen).end()
    assert screen.getvalue() == ""
