# SPDX-License-Identifier: Apache-2.0
"""`scripts/gen-reference [--check]`: writes docs/reference from the code; --check only names stale pages."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.reference import commands, configuration, interfaces

PLACE = Path(__file__).parents[2] / "docs/reference"
PAGES: dict[str, Callable[[], str]] = {
    "annotations.md": interfaces.annotations,
    "commands.md": commands.reference,
    "config.example.toml": configuration.example,
    "configuration.md": configuration.reference,
    "exit-codes.md": commands.exit_codes,
    "metrics.md": interfaces.metric_page,
    "rpcs.md": interfaces.rpcs,
}


@cache
def made() -> dict[str, str]:
    """The text of each page, made from the code."""
    return {name: make() for name, make in PAGES.items()}


def stale() -> dict[str, str]:
    """The pages that differ from the code, with their current text."""
    return {
        name: text
        for name, text in made().items()
        if not (PLACE / name).exists() or (PLACE / name).read_text(encoding="utf-8") != text
    }


def main(arguments: list[str]) -> int:
    """1 with --check when something is stale, else 0."""
    result = stale()
    if "--check" not in arguments:
        for name, text in result.items():
            (PLACE / name).write_text(text, encoding="utf-8")
    verb = "is stale; run scripts/gen-reference" if "--check" in arguments else "written"
    for name in result:
        print(f"{(PLACE / name).resolve().relative_to(PLACE.parents[1])} {verb}")
    return 1 if result and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
