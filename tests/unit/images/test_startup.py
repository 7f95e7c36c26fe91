# SPDX-License-Identifier: Apache-2.0
"""The steps that make plain source start fast change what they shall, and a program does the same after them."""

import ast

import pytest

from tests.fakes import builders  # noqa: F401  which puts the builders' library where it is found

from lib import startup  # isort: skip

MODULES = {"pkg", "pkg.mod", "json"}


def lean(source):
    tree = startup.lean(ast.parse(source), MODULES.__contains__)
    return ast.unparse(ast.fix_missing_locations(tree))


def test_annotations_go_and_fields_of_classes_keep_their_names():
    source = """
class Row(NamedTuple):
    x: int
    y: str = ""
def f(a: int, *b: str, c: list[int] = (), **d: Any) -> None:
    e: int = 1
    g: int
x: dict[str, int] = {}
"""
    assert lean(source).splitlines() == [
        *("class Row(NamedTuple):", "    x: None", "    y: None = ''", "", "def f(a, *b, c=(), **d):", "    e = 1"),
        *("    pass", "x = {}"),
    ]


@pytest.mark.parametrize(
    "alias", ["Callable[[int], str]", "tuple[int, ...]", 'TypeVar("T")', "Sequence[Callable[[], X]]"]
)
def test_a_type_that_only_annotations_name_goes(alias):
    assert lean(f"Name = {alias}\ndef f(x: Name) -> Name: return x").startswith("def f(x)")
    assert lean(f"Name = {alias}\nclass A(Name): pass").startswith("Name = ")


@pytest.mark.parametrize("value", ["NAMES[0]", "f()", "A | B", "1"])
def test_other_values_stay_even_if_this_module_does_not_use_them(value):
    assert f"Name = {value}" in lean(f"Name = {value}")


@pytest.mark.parametrize(
    "source",
    [
        *("import json\nX = json.X", "import json\ndef f(x=json.X): pass", "import json\n@json.x\ndef f(): pass"),
        *("import json\nclass A(json.B): pass", "import json\nclass A:\n    x = json.X", "from pkg import *"),
        *("from __future__ import annotations", "import json\n__all__ = ['json']", "from json import x as x"),
        *("import json\nf = lambda: json.x", "import os\ndef f(): return os.x", "import json\nx = [json.y for _ in z]"),
    ],
)
def test_an_import_that_is_needed_at_once_or_offered_to_others_stays(source):
    assert lean(source).partition("\n")[0] == ast.unparse(ast.parse(source)).partition("\n")[0]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("def f():\n    return json.x", "def f():\n    import json\n    return json.x"),
        ("def f():\n    'doc'\n    a()\n    json.x", 'def f():\n    """doc"""\n    a()\n    import json\n    json.x'),
        (
            "class A:\n\n    def f(self):\n        json.x",
            "class A:\n\n    def f(self):\n        import json\n        json.x",
        ),
        (
            "def f(x):\n    if x:\n        json.x\n    a()",
            "def f(x):\n    if x:\n        import json\n        json.x\n    a()",
        ),
        ("def f():\n    with a:\n        json.x", "def f():\n    with a:\n        import json\n        json.x"),
        ("def f():\n    with json.a:\n        json.x", "def f():\n    import json\n    with json.a:\n        json.x"),
        ("def f():\n    for x in a:\n        json.x", "def f():\n    import json\n    for x in a:\n        json.x"),
        (
            "def f():\n    try:\n        a()\n    except json.X:\n        pass",
            "def f():\n    import json\n    try:\n        a()\n    except json.X:\n        pass",
        ),
        ("def f():\n\n    def g():\n        json.x", "def f():\n    import json\n\n    def g():\n        json.x"),
        ("def f(json):\n    json.x", "def f(json):\n    json.x"),
        ("def f():\n    json = a\n    json.x", "def f():\n    json = a\n    json.x"),
        (
            "def f():\n    return [json for json in a] + json.x",
            "def f():\n    import json\n    return [json for json in a] + json.x",
        ),
        ("async def f():\n    json.x", "async def f():\n    import json\n    json.x"),
        ("def f(x: json.X):\n    pass", "def f(x):\n    pass"),
    ],
)
def test_an_import_that_functions_use_is_theirs(source, wanted):
    assert lean(f"import json\n{source}") == wanted


def test_a_module_of_a_package_is_imported_without_the_import_systems_python():
    assert lean("from pkg import mod, other\ndef f(): mod.x, other") == (
        "def f():\n    import pkg.mod as mod\n    from pkg import other\n    (mod.x, other)"
    )
    assert lean("from pkg import mod as m\ndef f(): m.x") == "def f():\n    import pkg.mod as m\n    m.x"


def test_of_two_functions_each_imports_for_itself_and_lines_stay_where_they_are():
    tree = ast.parse("import json\n\n\ndef f():\n    json.x\n\n\ndef g():\n    if a:\n        raise json.y")
    code = compile(ast.fix_missing_locations(startup.lean(tree, MODULES.__contains__)), "x", "exec")
    lines = [const.co_firstlineno for const in code.co_consts if hasattr(const, "co_firstlineno")]
    assert lines == [4, 8] and ast.unparse(tree).count("import json") == 2
