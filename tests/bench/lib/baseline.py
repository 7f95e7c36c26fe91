# SPDX-License-Identifier: Apache-2.0
"""The committed figures that new ones are held against: tests/bench/baseline.json.

One entry for each thing that decides a figure and is not ours (the compiler, the kernel's version): a machine with
another has no baseline, and only the budgets hold there. Called by benchmarks and their tests.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).parent.parent / "baseline.json"
PERCENT = 2.0
LEAST = 0.03
"""What a figure in milliseconds may always grow by: the counter itself repeats within some 15 microseconds."""
_BANNER = re.compile(rb"Linux version (\S+?)-\S+ \(.*?\) \((?:\S*-)?(gcc|clang)[^)]*\) (\d+\.\d+\.\d+)")


def key(vmlinux: bytes) -> str:
    """What the kernel was made from and by, from its own banner: "6.12.118, gcc 12.4.0". Raises ValueError."""
    if (match := _BANNER.search(vmlinux)) is None:
        raise ValueError("there is no banner with version and compiler in the kernel")
    return f"{match[1].decode()}, {match[2].decode()} {match[3].decode()}"


def read(name: str, file: Path = FILE) -> dict[str, float] | None:
    """The figures that were committed for `name`; None if there are none."""
    entries: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    return entries.get(name)


def write(name: str, figures: Mapping[str, float], file: Path = FILE) -> None:
    """Make `figures` the baseline of `name`; the other entries stay."""
    entries = json.loads(file.read_text()) if file.exists() else {}
    entries[name] = dict(figures)
    file.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def worse(figures: Mapping[str, float], base: Mapping[str, float]) -> list[str]:
    """A sentence for each figure that is more than PERCENT above its baseline, or missing; smaller is better."""
    result = []
    for name, old in base.items():
        new, allowed = figures.get(name), max(old * PERCENT / 100, LEAST)
        if new is None:
            result.append(f"{name} was not measured, and its baseline is {old}")
        elif new > old + allowed:
            result.append(f"{name} is {new}, {100 * (new - old) / old:.1f} percent above its baseline of {old}")
    return result


def hold(name: str, figures: Mapping[str, float], *, update: bool, file: Path = FILE) -> int:
    """Compare with the baseline and report, or make these figures the baseline; return 1 when a figure is worse, else
    0.
    """
    if update:
        write(name, figures, file)
        print(f"bench: wrote the baseline for {name}", file=sys.stderr)
        return 0
    base = read(name, file)
    if base is None:
        print(f"bench: there is no baseline for {name}; the budgets hold, see docs/dev/benchmarks.md", file=sys.stderr)
    result = worse(figures, base or {})
    for line in result:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if result else 0
