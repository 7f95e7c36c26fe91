# SPDX-License-Identifier: Apache-2.0
"""The dependencies in the C programs: includes point down, and nothing depends on itself by a detour."""

from pathlib import Path

import pytest

from tests.style import c_graph, c_scan, repo

pytestmark = pytest.mark.style

IMAGES = repo.ROOT / "images"
AGENT = IMAGES / "agent"
PROGRAMS = sorted({path.relative_to(IMAGES).parts[0] for path in repo.of("c") if path.is_relative_to(IMAGES)})

LAYERS = (
    "main",
    "plain | systemd/profile",
    "boot | systemd/unit",
    "systemd/endings",
    "loop",
    "systemd/starter | systemd/journal",
    "helpers",
    "systemd/units",
    "kernel",
    "link",
    "base",
)
"""Of the agent, from the top. What loop/ has never blocks; helpers/ and what is beside it runs in children that may."""


def test_the_agents_includes_point_down() -> None:
    repo.report(list(c_graph.upward(c_graph.graph(AGENT), LAYERS)), "the agent's layers, see images/agent/README.md")


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_files_of_a_program_depend_on_each_other(program: str) -> None:
    repo.report(c_graph.circle(c_graph.graph(IMAGES / program)), "these include each other, by a detour perhaps")


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_header_declares_is_in_the_source_of_its_name(program: str) -> None:
    repo.report(list(c_graph.misplaced(IMAGES / program)), "a function is declared in the header of its source")


def _tree(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def _include(*names: str) -> str:
    return "".join(f'#include "{name}"\n' for name in names)


def test_a_dependency_on_a_higher_layer_is_reported(tmp_path: Path) -> None:
    top = _tree(tmp_path, {"low/a.c": _include("low/a.h", "high/b.h"), "low/a.h": "", "high/b.h": "", "stray.c": ""})
    assert list(c_graph.upward(c_graph.graph(top), ("high", "low"))) == ["low/a -> high/b", "stray is in no layer"]
    assert list(c_graph.upward(c_graph.graph(top), ("high | stray | low",))) == []


def test_a_circle_is_noticed(tmp_path: Path) -> None:
    files = {"a.c": _include("a.h", "b.h"), "a.h": "", "b.h": _include("c.h"), "c.h": "", "c.c": _include("c.h", "a.h")}
    assert c_graph.circle(c_graph.graph(_tree(tmp_path, files))) == ["a", "b", "c"]
    (tmp_path / "c.c").write_text(_include("c.h", "generated.pb.h"))
    assert c_graph.circle(c_graph.graph(tmp_path)) == []


def test_a_function_in_another_source_is_resolved(tmp_path: Path) -> None:
    header = "struct s { int (*f)(int); };\nextern int v;\nint one(void);\nint two(int a,\n        void (*g)(int));\n"
    assert c_scan.declarations(header) == ["one", "two"]
    top = _tree(tmp_path, {"a.h": header, "a.c": "int one(void)\n{\n}\n", "b.c": "int two(int a)\n{\n}\n"})
    assert list(c_graph.misplaced(top)) == ["a.h declares two, which is in b"]
