# SPDX-License-Identifier: Apache-2.0
"""What a dynamic program needs to run where its libraries are not: they, and the loader that brings them."""

from collections.abc import Iterable
from pathlib import Path

from lib import tools


def loader_of(program: Path) -> Path:
    """The dynamic loader."""
    return next(path for path in libraries([program]) if path.name.startswith("ld-"))


def libraries(files: Iterable[Path]) -> list[Path]:
    """What the loader would load for `files`, itself included, as ldd names it; each once, sorted."""
    lines = [line.split() for file in files for line in tools.run(["ldd", file]).splitlines()]
    return sorted({Path(word) for words in lines for word in words if word.startswith("/")})
