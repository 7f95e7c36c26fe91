# SPDX-License-Identifier: Apache-2.0
"""Compiles Python modules to .pyc files that stand without their source; the same source gives the same bytes.

`compile_all` starts this file as a program, since what marshal writes depends on what else a process has in memory:
a fresh one with a fixed hash seed always has the same.
"""

import importlib.util
import json
import marshal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_NO_SOURCE = bytes(12)
"""Flags, time and size of a source that nobody looks for."""
_OPTIMIZE = 2
"""No assertions and no docstrings: the files are a third smaller, and are read faster."""


def compile_all(files: Sequence[tuple[Path, Path, str]]) -> None:
    """Compile (source, target, name in tracebacks) each. Raises CalledProcessError."""
    jobs = [[str(source), str(target), name] for source, target, name in files]
    argv = [sys.executable, "-S", "-s", __file__]
    subprocess.run(argv, input=json.dumps(jobs).encode(), env={"PYTHONHASHSEED": "0"}, check=True)


def main() -> None:
    """The program: jobs as JSON on standard input."""
    for source, target, name in json.load(sys.stdin.buffer):
        code = compile(Path(source).read_bytes(), name, "exec", dont_inherit=True, optimize=_OPTIMIZE)
        Path(target).write_bytes(importlib.util.MAGIC_NUMBER + _NO_SOURCE + marshal.dumps(code))


if __name__ == "__main__":
    main()
