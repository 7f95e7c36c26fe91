# SPDX-License-Identifier: Apache-2.0
"""The manual pages, from the parser: clearpod.1, and one for each command. Run by scripts/gen-man; writes a directory.

They are made for packages and not committed.
"""

import gzip
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from argparse_manpage.manpage import Manpage

from cri import __version__
from cri.cli.parser import Parser, make

NAME = "clearpod"


def pages() -> dict[str, str]:
    """Name of each file -> its text."""
    whole = make(None)
    made = {f"{NAME}.1": _page(whole, "each pod in its own small virtual machine")}
    for parser in whole.all():
        if parser.prog.count(" ") == 1:
            made[f"{parser.prog.replace(' ', '-')}.1"] = _page(parser, (parser.description or "").rstrip("."))
    return made


def _page(parser: Parser, summary: str) -> str:
    name = parser.prog.replace(" ", "-")
    data = {
        "project_name": NAME,
        "version": __version__,
        "prog": parser.prog,
        "description": summary,
        "manual_title": "clearpod",
        "date": datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC).strftime(
            "%Y-%m-%d"
        ),
    }
    made = Manpage(parser, data, format="single-commands-section")
    made.prog = name
    text = str(made)
    shown = "".join(f".TP\n.B {_plain(command)}\n{_plain(what)}\n" for command, what in parser.examples)
    return f"{text.rstrip()}\n.SH EXAMPLES\n{shown}" if shown else f"{text.rstrip()}\n"


def _plain(text: str) -> str:
    """As troff prints it: its backslashes, and no dot or quote that begins a line."""
    return "\\&" + text.replace("\\", "\\e").replace("-", "\\-")


def main(arguments: list[str]) -> int:
    """Write them, compressed with `--gz` for a package."""
    directory, is_small = Path(arguments[0]), "--gz" in arguments[1:]
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        data = text.encode()
        path = directory / (f"{name}.gz" if is_small else name)
        path.write_bytes(gzip.compress(data, mtime=0) if is_small else data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
