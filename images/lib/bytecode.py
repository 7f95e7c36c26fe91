# SPDX-License-Identifier: Apache-2.0
"""Compiles Python modules so that they stand without their sources; the same source gives the same bytes.

`compile_all` starts this file as a program, since what marshal writes depends on what else a process has in memory:
a fresh one with a fixed hash seed always has the same.
"""

import ast
import importlib.util
import json
import marshal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType

_NO_SOURCE = bytes(12)
"""Flags, time and size of a source that nobody looks for."""
_OPTIMIZE = 2
"""No assertions and no docstrings: the files are a third smaller, and are read faster."""


def compile_all(files: Sequence[tuple[Path, Path, str]]) -> None:
    """Compile (source, target, name in tracebacks) each, to .pyc files. Raises CalledProcessError."""
    _run("files", [[str(source), str(target), name] for source, target, name in files])


def pack(target: Path, modules: Sequence[tuple[str, bool, Path, str]], groups: Sequence[Sequence[str]]) -> None:
    """Compile (name, is a package, source, name in tracebacks) each into one file, for stage1-aci/start.py to read.
    Modules of a group, given by their names, are in it a second time, together.
    """
    jobs = [[name, package, str(source), shown] for name, package, source, shown in modules]
    _run("pack", [str(target), jobs, [list(group) for group in groups]])


def _run(what: str, jobs: list[object]) -> None:
    argv = [sys.executable, "-S", "-s", __file__, what]
    subprocess.run(argv, input=json.dumps(jobs).encode(), env={"PYTHONHASHSEED": "0"}, check=True)


def main() -> None:
    """The program: what to do, and jobs as JSON on standard input."""
    jobs = json.load(sys.stdin.buffer)
    if sys.argv[1] == "files":
        for source, target, name in jobs:
            code = marshal.dumps(_compiled(source, name))
            Path(target).write_bytes(importlib.util.MAGIC_NUMBER + _NO_SOURCE + code)
    else:
        target, modules, groups = jobs
        codes = {name: (package, _compiled(source, shown)) for name, package, source, shown in modules}
        Path(target).write_bytes(_packed(codes, groups))


def _packed(modules: dict[str, tuple[bool, CodeType]], groups: list[list[str]]) -> bytes:
    """The size of the index in four bytes, the index, and the code: what nobody imports is not even copied."""
    index, places, codes = {}, [], b""
    for name, (package, code) in modules.items():
        data = marshal.dumps(code)
        index[name] = package, len(codes), len(codes) + len(data)
        codes += data
    for group in groups:
        data = marshal.dumps({name: modules[name][1] for name in group})
        places.append((len(codes), len(codes) + len(data)))
        codes += data
    header = marshal.dumps((index, places, {name: number for number, group in enumerate(groups) for name in group}))
    return len(header).to_bytes(4, "little") + header + codes


def _compiled(source: str, name: str) -> CodeType:
    tree = _Unannotated().visit(ast.parse(Path(source).read_bytes(), name))
    code: CodeType = compile(tree, name, "exec", dont_inherit=True, optimize=_OPTIMIZE)
    return code


class _Unannotated(ast.NodeTransformer):
    """Leaves annotations out, which the interpreter would otherwise evaluate at each start; of classes, named tuples
    among them, the names stay.
    """

    def __init__(self) -> None:
        self._in_class = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._inside(node, in_class=False)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._inside(node, in_class=False)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if self._in_class:
            node.annotation = ast.copy_location(ast.Constant(None), node.annotation)
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def _inside(self, node: ast.AST, *, in_class: bool) -> ast.AST:
        was, self._in_class = self._in_class, in_class
        self.generic_visit(node)
        self._in_class = was
        return node


if __name__ == "__main__":
    main()
