# SPDX-License-Identifier: Apache-2.0
"""Compiles Python modules so that they stand without their sources; the same source gives the same bytes.

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
    """Compile (source, target, name in tracebacks) each, to .pyc files. Raises CalledProcessError."""
    _run("files", [[str(source), str(target), name] for source, target, name in files])


def pack(target: Path, modules: Sequence[tuple[str, bool, Path, str]]) -> None:
    """Compile (name, is a package, source, name in tracebacks) each into one file, for stage1-aci/start.py to read."""
    _run("pack", [str(target), [[name, package, str(source), said] for name, package, source, said in modules]])


def _run(what: str, jobs: list[object]) -> None:
    argv = [sys.executable, "-S", "-s", __file__, what]
    subprocess.run(argv, input=json.dumps(jobs).encode(), env={"PYTHONHASHSEED": "0"}, check=True)


def main() -> None:
    """The program: what to do, and jobs as JSON on standard input."""
    jobs = json.load(sys.stdin.buffer)
    if sys.argv[1] == "files":
        for source, target, name in jobs:
            Path(target).write_bytes(importlib.util.MAGIC_NUMBER + _NO_SOURCE + _code(source, name))
    else:
        target, modules = jobs
        # Bytes in bytes: what nobody imports is not unpacked.
        packed = {name: (package, _code(source, said)) for name, package, source, said in modules}
        Path(target).write_bytes(marshal.dumps(packed))


def _code(source: str, name: str) -> bytes:
    return marshal.dumps(compile(Path(source).read_bytes(), name, "exec", dont_inherit=True, optimize=_OPTIMIZE))


if __name__ == "__main__":
    main()
