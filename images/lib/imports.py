# SPDX-License-Identifier: Apache-2.0
"""Which modules a Python program needs, from the import statements in it. Used where a Python is bundled.

Of the program's own packages every import counts, also one inside a function; of the standard library only those at
the top of a module, since most of the others serve what the program does not use. Nothing is imported or run.
"""

import ast
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

STDLIB = Path(sysconfig.get_path("stdlib"))
_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


class Module(NamedTuple):
    """A module by its full name, and the file it is loaded from: source or a shared object."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        """Whether it has modules below it."""
        return self.path.name == "__init__.py"

    @property
    def is_own(self) -> bool:
        """Whether it is part of the program, not of the standard library."""
        return STDLIB not in self.path.parents


def parsed(module: Module) -> ast.Module:
    """The syntax tree of its source."""
    return ast.parse(module.path.read_bytes())


Tree = Callable[[Module], ast.Module]


def find(name: str, places: Iterable[Path]) -> Module | None:
    """The module in the first of the `places` that has it; None for one that is built in, or nowhere."""
    inside = name.replace(".", "/")
    for place in places:
        for path in (f"{inside}/__init__.py", f"{inside}.py", f"{inside}{_SUFFIX}", f"lib-dynload/{inside}{_SUFFIX}"):
            if (place / path).is_file():
                return Module(name, place / path)
    return None


def closure(
    roots: Iterable[str], own: Sequence[Path], *, without: Collection[str] = (), tree: Tree = parsed
) -> list[Module]:
    """The modules that `roots` need, themselves included, sorted by name.

    `own` are the places of the program's packages, which come before the library's modules of the same name. Modules
    `without` which the library does, if with less speed, are left out. `tree` reads the source of one.
    """
    modules: dict[str, Module] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        module = None if name in modules or name in without else find(name, (*own, STDLIB))
        if module is None:
            continue
        modules[name] = module
        if module.path.suffix == ".py":
            waiting += _imported(module, tree(module))
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return [modules[name] for name in sorted(modules)]


def _imported(module: Module, tree: ast.Module) -> Iterator[str]:
    for node in _statements(tree, everything=module.is_own):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            yield base
            # Each may be a module or something in one; what is no module is not found.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and module.is_own:
            yield from _codecs(node)


def _codecs(call: ast.Call) -> Iterator[str]:
    """A text's encoding is a module too: `x.decode("name")`, `open(encoding="name")`."""
    is_method = isinstance(call.func, ast.Attribute) and call.func.attr in ("decode", "encode")
    named = [keyword.value for keyword in call.keywords if keyword.arg == "encoding"]
    for word in (*(call.args[:1] if is_method else ()), *named):
        if isinstance(word, ast.Constant) and isinstance(word.value, str):
            yield f"encodings.{word.value.lower().replace('-', '_')}"


def _base(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _statements(node: ast.AST, *, everything: bool) -> Iterator[ast.AST]:
    """All nodes but those that never run in the program: functions of the library, and what is for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_never(child.test):
            yield from (grandchild for other in child.orelse for grandchild in (other, *ast.walk(other)))
        elif everything or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _statements(child, everything=everything)


def _is_never(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in ast.unparse(test) or ast.unparse(test) == "__name__ == '__main__'"
