# SPDX-License-Identifier: Apache-2.0
"""Half a minute of `scripts/soak`: a node whose daemon and VMs are killed loses no line and leaves nothing."""

from pathlib import Path

import pytest

from tests.bench.lib.curves import Curve, curves
from tests.soak import main
from tests.soak.lines import Compared, compare
from tests.soak.watch import Sample, growth_mib


@pytest.mark.vm
@pytest.mark.only_on("qemu", "what is killed is the daemon and processes, whatever they are")
@pytest.mark.timeout(400)
def test_half_a_minute_of_kills_loses_and_leaves_nothing(hypervisor: str, guest_dir: Path) -> None:
    report = main.run(0.5, seed=int.from_bytes(hypervisor.encode()[:3]), guest_dir=guest_dir)
    assert report["lines_lost"] == 0 and report["leaked"] == 0, report["wrong"]
    assert report["wrong"] == []
    assert report["kills"] >= 1 and report["pods"] >= 3 and report["execs"] >= 3 and report["lines"] > 0
    assert "<polyline" in main.plot(report)


def line(number: object, kind: str = "F", stream: str = "stdout") -> str:
    return f"2026-01-01T00:00:00.0Z {stream} {kind} {number}\n"


@pytest.mark.parametrize(
    "log, is_whole, expected",
    [
        ("".join(map(line, range(1, 6))), True, Compared(5, 0)),
        ("".join(map(line, range(1, 4))), False, Compared(3, 0)),
        ("", False, Compared(0, 0)),
        ("", True, Compared(0, 5)),
        ("".join(map(line, (1, 2, 4, 5))), True, Compared(4, 1)),
        ("".join(map(line, (1, 2, 4))), False, Compared(3, 1)),
        ("".join(map(line, (1, 2, 2, 3, 4, 5))), True, Compared(6, 1)),
        ("".join(map(line, (1, 3, 2, 4, 5))), True, Compared(5, 1)),
        ("".join(map(line, (1, 2, 3, 4, 5, "x"))), True, Compared(5, 1)),
        ("".join(map(line, range(1, 6))) + line(5, "P"), True, Compared(5, 1)),
        ("".join(map(line, range(1, 6))) + "half a li", True, Compared(5, 1)),
        ("".join(map(line, range(1, 5))) + line(5, stream="stderr"), True, Compared(4, 2)),
    ],
)
def test_each_line_is_compared(log: str, is_whole: bool, expected: Compared) -> None:
    assert compare(log, 5, is_whole=is_whole) == expected


def test_growth_is_of_the_last_daemon_after_its_beginning() -> None:
    before = [Sample(float(at), 500.0, 0, 0, 0) for at in range(10)]
    after = [Sample(float(at), 10.0 if at < 14 else 60.0 + at, 0, 0, 0) for at in range(10, 30)]
    gap = [Sample(12.5, 0.0, 0, 0, 0)]
    assert growth_mib([*before, *after, *gap], 10) == 12.0
    assert growth_mib(before[:2], 0) == 0.0


def test_curves_are_scaled_each_for_itself() -> None:
    text = curves("T & t", [Curve("a<b", [(0, 0), (60, 5)]), Curve("c", [(0, 1e6)])], note="n", marks=[30], marked="m")
    assert text.count("<polyline") == 2 and "a&lt;b" in text and "T &amp; t" in text and "1e+06" in text
    assert curves("empty", [Curve("none", [])], note="n").count("<polyline") == 1
