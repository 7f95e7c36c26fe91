# SPDX-License-Identifier: Apache-2.0
"""Keeps functions and files small. The caps are on the tail; the medians are on what ships."""

import statistics
from pathlib import Path

import pytest

from tests.style import c_scan, py_scan, repo

pytestmark = pytest.mark.style

FILE_LINES = 900
FUNCTION_LINES = 60
MEDIAN_LINES = 10
PARAMETERS = 5
POSITIONAL = 2
MEDIAN_NEEDS = 20  # below so many functions a median says nothing

Sized = list[tuple[Path, c_scan.Function | py_scan.Function]]


def _python(*folders: str) -> list[tuple[Path, py_scan.Function]]:
    shown = [path for path in repo.of("python") if not folders or path.relative_to(repo.ROOT).parts[0] in folders]
    return [(path, function) for path in shown for function in py_scan.functions(path)]


def _c() -> list[tuple[Path, c_scan.Function]]:
    return [(path, f) for path in repo.of("c") for f in c_scan.functions(path.read_text(encoding="utf-8"))]


def test_files_are_short() -> None:
    paths = [path for language in ("python", "c", "shell") for path in repo.of(language)]
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    long = [f"{repo.where(path, size)}: {size} lines" for path, size in sizes.items() if size > FILE_LINES]
    repo.report(long, f"no file is longer than {FILE_LINES} lines")


def test_functions_are_short() -> None:
    result: Sized = [*_python(), *_c()]
    long = [
        f"{repo.where(path, f.line)}: {f.name} has {f.lines} lines" for path, f in result if f.lines > FUNCTION_LINES
    ]
    repo.report(long, f"no function is longer than {FUNCTION_LINES} lines, its docstring not counted")


@pytest.mark.parametrize("language", ["python", "c"])
def test_the_usual_function_is_a_screenful_of_nothing(language: str) -> None:
    result: Sized = [*_python("stage1", "cri")] if language == "python" else [*_c()]
    sizes = [function.lines for _, function in result]
    if len(sizes) >= MEDIAN_NEEDS:
        assert statistics.median(sizes) <= MEDIAN_LINES


OF_LIBC = frozenset({"mmap64"})
"""Functions of the C library before which a preloaded library of ours stands."""


def test_functions_take_few_parameters() -> None:
    result: Sized = [*_python("stage1", "cri"), *_c()]
    many = [
        f"{repo.where(path, f.line)}: {f.name} takes {f.parameters}"
        for path, f in result
        if f.parameters > PARAMETERS and f.name not in OF_LIBC
    ]
    repo.report(many, f"no function takes more than {PARAMETERS} parameters")


def _mirrors_the_kernel(path: Path) -> bool:
    """stage1/linux keeps the order of arguments that the manual pages have."""
    return path.is_relative_to(repo.ROOT / "stage1" / "linux")


def test_parameters_past_the_second_are_keywords() -> None:
    loose = [
        f"{repo.where(path, f.line)}: {f.name} has {f.positional} positional parameters"
        for path, f in _python("stage1", "cri")
        if f.positional > POSITIONAL and not f.name.startswith("__") and not _mirrors_the_kernel(path)
    ]
    repo.report(loose, "parameters past the second are keyword-only: put a * before them")


C_CASES = [
    ("int f(void) {\n}\n", [("f", 1, 2, 0)]),
    ("static int\nf(int a, void (*g)(int, int))\n{\n  if (a) { g(1, 2); }\n}\n", [("f", 2, 4, 2)]),
    (
        "struct s { int x; };\nint a[] = { F(1) };\nint f(char *s) { return *s == '{' || \"}{\"[0]; }\n",
        [("f", 3, 1, 1)],
    ),
    (
        "#define M(x) do { \\\n x; } while (0)\n/* { */ int f(int a) { } // }\nint g(void) { }",
        [("f", 3, 1, 1), ("g", 4, 1, 0)],
    ),
    ("int f(int);\nenum e { A };\n", []),
]


@pytest.mark.parametrize(("source", "result"), C_CASES)
def test_the_c_scanner_sees_functions_and_nothing_else(source: str, result: list[tuple[str, int, int, int]]) -> None:
    assert c_scan.functions(source) == result
