# SPDX-License-Identifier: Apache-2.0
"""Steps that make a program of plain source start fast, each from the syntax tree of a module to another one. Used
where a Python program is bundled; its source stays as people read it.

The steps keep what a module does, but for three things: a function has no annotations to look at while it runs, a type
that only annotations name is not there, and a name that is imported for functions is no attribute of the module.
"""

import ast
import symtable
from collections.abc import Callable, Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom
IsModule = Callable[[str], bool]
"""Whether the bundle has a module of that full name."""
_ALWAYS_THERE = ("os", "sys", "errno")
_GENERIC = ("Callable", "Generator", "Iterable", "Iterator", "Mapping", "Sequence", "dict", "list", "tuple")


def lean(tree: ast.Module, is_module: IsModule) -> ast.Module:
    """All steps."""
    return with_late_imports(without_aliases(without_annotations(tree)), is_module)


def without_annotations(tree: ast.Module) -> ast.Module:
    """Leaves annotations out, which the interpreter would otherwise evaluate at each start; of classes, named tuples
    among them, the names stay.
    """
    result: ast.Module = _Unannotated().visit(tree)
    return result


class _Unannotated(ast.NodeTransformer):
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


def without_aliases(tree: ast.Module) -> ast.Module:
    """Leaves names of types out that only annotations use: `Name = Callable[...]`, `Name = TypeVar(...)`."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    tree.body = [one for one in tree.body if not (_alias(one) and _alias(one) not in used)]
    return tree


def _alias(statement: ast.stmt) -> str:
    """The name that the statement gives to a type; empty if it is another one."""
    if not isinstance(statement, ast.Assign) or not isinstance(target := statement.targets[0], ast.Name):
        return ""
    value = statement.value
    is_variable = isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"
    is_type = isinstance(value, ast.Subscript) and ast.unparse(value.value) in _GENERIC
    return target.id if is_variable or is_type else ""


def with_late_imports(tree: ast.Module, is_module: IsModule) -> ast.Module:
    """Moves each import at the top of the module that only functions use to those functions, and takes out one that
    nothing uses. An import such as `import x as x`, by which a module offers a name to others, stays.
    """
    at_once, moved, kept = _used_at_once(tree), dict[str, ast.stmt](), list[ast.stmt]()
    for statement in tree.body:
        if not isinstance(statement, Import) or (
            isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        ):
            kept.append(statement)
            continue
        for alias in statement.names:
            bound = alias.asname or alias.name.partition(".")[0]
            is_offered = alias.asname == alias.name or alias.name == "*"
            if bound in at_once or is_offered or alias.name in _ALWAYS_THERE:
                kept.append(_import_of(statement, alias, is_module))
            else:
                moved[bound] = _import_of(statement, alias, is_module)
    tree.body = kept
    for function, names in _uses(tree, set(moved)):
        for name in sorted(names):
            block, number = _place(function.body, name)
            block.insert(number, ast.copy_location(moved[name], block[number]))
    return tree


def _import_of(statement: Import, alias: ast.alias, is_module: IsModule) -> ast.stmt:
    """The import of that one name. For a module out of a package it is `import a.b as b`: where the module is there,
    that runs none of the import system's Python.
    """
    if isinstance(statement, ast.Import):
        one: ast.stmt = ast.Import([alias])
    elif is_module(full := f"{statement.module}.{alias.name}"):
        one = ast.Import([ast.alias(full, alias.asname or alias.name)])
    else:
        one = ast.ImportFrom(statement.module, [alias], statement.level)
    return ast.copy_location(one, statement)


def _used_at_once(tree: ast.Module) -> set[str]:
    """The names that the module uses while it is loaded: outside of functions, or in their decorators and defaults."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function):
            waiting += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
            continue
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Assign | ast.AugAssign) and "__all__" in ast.unparse(node):
            names.update(ast.literal_eval(node.value))
        elif isinstance(node, ast.Global):
            names.update(node.names)
        waiting += ast.iter_child_nodes(node)
    return names


def _uses(tree: ast.Module, names: set[str]) -> Iterator[tuple[Function, set[str]]]:
    """The module's functions and methods that use some of its `names`, themselves or in functions inside."""
    text = ast.unparse(tree)  # without annotations, whose names the table of the source would have
    pairs = zip(_functions(ast.parse(text)), _functions(tree), strict=True)
    functions = {(plain.name, plain.lineno): ours for plain, ours in pairs}
    waiting = [symtable.symtable(text, "module", "exec")]
    while waiting:
        table = waiting.pop()
        function = functions.get((table.get_name(), table.get_lineno())) if table.get_type() == "function" else None
        if function is None:
            waiting += table.get_children()
        elif used := _globals(table) & names:
            yield function, used


def _place(block: list[ast.stmt], name: str) -> tuple[list[ast.stmt], int]:
    """Where the import of `name` stands: before the first statement that uses it, and within an `if` or `with` of which
    only one block does, so that a program which does not come there does not load it.
    """
    users = [number for number, one in enumerate(block) if _mentions(one, name)]
    only = block[users[0]]
    if len(users) == 1 and isinstance(only, ast.If | ast.With):
        inner = [part for part in (only.body, getattr(only, "orelse", [])) if any(_mentions(one, name) for one in part)]
        heads = [only.test] if isinstance(only, ast.If) else only.items
        if len(inner) == 1 and not any(_mentions(head, name) for head in heads):
            return _place(inner[0], name)
    return block, users[0]


def _mentions(node: ast.AST, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _globals(table: symtable.SymbolTable) -> set[str]:
    """The names of its module that a scope uses, or one inside."""
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return own.union(*map(_globals, table.get_children()))
