# SPDX-License-Identifier: Apache-2.0
"""What a dynamic program needs to run where its libraries are not: they, and the loader that brings them."""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from lib import tools

_HEADER, _PT_INTERP = 64, 3


def is_dynamic(program: Path) -> bool:
    """Whether a program, for 64 bits, asks for a dynamic loader; what is no program does not."""
    data = program.read_bytes()
    if data[:4] != b"\x7fELF" or len(data) < _HEADER:
        return False
    first, (size, count) = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<HH", data, 54)
    return any(struct.unpack_from("<I", data, first + at * size)[0] == _PT_INTERP for at in range(count))


def loader_of(program: Path) -> Path:
    """The dynamic loader."""
    return next(path for path in libraries([program]) if path.name.startswith("ld-"))


def libraries(files: Iterable[Path], *, first: Path | None = None) -> list[Path]:
    """What the loader would load for `files`, itself included, as ldd names it; each once, sorted. Those in the
    directory `first` are found before all others.
    """
    environment = {**os.environ, "LD_LIBRARY_PATH": str(first)} if first else None
    lines = [line.split() for file in files for line in tools.run(["ldd", file], env=environment).splitlines()]
    return sorted({Path(field) for fields in lines for field in fields if field.startswith("/")})
