# SPDX-License-Identifier: Apache-2.0
"""Compiles Python modules so that they stand without their sources; the same source gives the same bytes.

This file is started as a program for it, since what marshal writes depends on what else a process has in memory: a
fresh one with a fixed hash seed always has the same.
"""

import ast
import importlib.util
import json
import marshal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from lib import startup

_NO_SOURCE = bytes(12)
"""Flags, time and size of a source that nobody looks for."""
_OPTIMIZE = 2
"""No assertions and no docstrings: the files are a third smaller, and are read faster."""


def compile_all(files: Sequence[tuple[Path, Path, str]]) -> None:
    """Compile (source, target, name in tracebacks) each, to .pyc files. Raises CalledProcessError."""
    _run({"files": [[str(source), str(target), name] for source, target, name in files]})


def pack(
    target: Path,
    modules: Sequence[tuple[str, bool, Path, str]],
    *,
    program: str,
    together: Collection[str],
    plain: bool,
) -> None:
    """Compile (name, is a package, source, name in tracebacks) each into one file, for stage1-aci/start.py to read.
    Modules with names in `together` are in it a second time, as one piece.

    The steps of `startup` are taken: all for modules of the package `program`, and none if they shall be `plain`.
    """
    jobs = [[name, package, str(source), shown] for name, package, source, shown in modules]
    steps = {"program": program, "together": sorted(together), "plain": plain}
    _run({"target": str(target), "modules": jobs, **steps})


def _run(job: dict[str, Any]) -> None:
    argv = [sys.executable, "-B", "-S", "-s", "-m", "lib.bytecode"]
    images, env = Path(__file__).resolve().parents[1], {"PYTHONHASHSEED": "0"}
    subprocess.run(argv, input=json.dumps(job).encode(), cwd=images, env=env, check=True)


def main() -> None:
    """The program: the job is JSON on standard input."""
    job = json.load(sys.stdin.buffer)
    for source, target, name in job.get("files", ()):
        code = _compiled(ast.parse(Path(source).read_bytes(), name), name)
        Path(target).write_bytes(importlib.util.MAGIC_NUMBER + _NO_SOURCE + marshal.dumps(code))
    if "target" in job:
        Path(job["target"]).write_bytes(_packed(job))


def _packed(job: dict[str, Any]) -> bytes:
    """The size of the index in four bytes, the index, and the code: what nobody imports is not even copied."""
    names = {name for name, *_ in job["modules"]}
    compiled: dict[str, CodeType] = {}
    index, codes = {}, b""
    for name, package, source, shown in job["modules"]:
        tree = ast.parse(Path(source).read_bytes(), shown)
        if not job["plain"]:
            is_program = name.partition(".")[0] == job["program"]
            tree = startup.lean(tree, names.__contains__) if is_program else startup.without_annotations(tree)
        compiled[name] = _compiled(tree, shown)
        data = marshal.dumps(compiled[name])
        index[name] = package, len(codes), len(codes) + len(data)
        codes += data
    together = marshal.dumps({name: compiled[name] for name in job["together"]})
    header = marshal.dumps((index, (len(codes), len(codes) + len(together))))
    return len(header).to_bytes(4, "little") + header + codes + together


def _compiled(tree: ast.Module, name: str) -> CodeType:
    code: CodeType = compile(ast.fix_missing_locations(tree), name, "exec", dont_inherit=True, optimize=_OPTIMIZE)
    return code


if __name__ == "__main__":
    main()
