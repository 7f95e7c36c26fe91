# SPDX-License-Identifier: Apache-2.0
"""Licence headers, docstrings, links and budgets: what people read must be there and be true."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.style import py_scan, repo

pytestmark = pytest.mark.style

SPDX = "SPDX-License-Identifier: Apache-2.0"
SHIPPED = ("stage1", "cri")
SUBORDINATE = "As At Before By For From If In So To Until Who Whose With"
NO_SUBJECT = frozenset(f"{SUBORDINATE} And It Its Not Nothing Of Once That Them They Those".split())
"""Words that a docstring does not begin with: they continue the name, which then has to be guessed from."""
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PAGE = re.compile(r"docs/[\w/.-]+\.(?:md|toml|service|yaml)\b")
URL = re.compile(r"https://\S+")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def _is_shipped(path: Path) -> bool:
    return path.relative_to(repo.ROOT).parts[0] in SHIPPED


def test_every_source_file_names_its_licence() -> None:
    bare = []
    for path in (path for language in ("python", "c", "shell", "proto") for path in repo.of(language)):
        head = path.read_text(encoding="utf-8").splitlines()[:2]
        if head and not any(SPDX in line for line in head):
            bare.append(repo.where(path))
    repo.report(bare, f"the first line (the second after #!) says {SPDX}")


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    silent = [repo.where(path) for path in repo.of("python") if py_scan.is_silent(path)]
    repo.report(silent, "a module opens with a docstring")


def test_every_c_file_opens_by_saying_what_it_is_for() -> None:
    silent = []
    for path in repo.of("c"):
        text = path.read_text(encoding="utf-8").replace(f"/* {SPDX} */", "", 1).lstrip()
        if not text.startswith(("/*", "//")):
            silent.append(repo.where(path))
    repo.report(silent, "a C file opens with a comment after its licence line")


def test_public_names_are_documented() -> None:
    silent = [
        f"{repo.where(path, line)}: {name}"
        for path in repo.of("python")
        if _is_shipped(path)
        for line, name in py_scan.undocumented(path)
    ]
    repo.report(silent, "a public class, function or method has a docstring")


def test_a_docstring_begins_with_what_the_thing_is() -> None:
    riddles = [
        f"{repo.where(path, line)}: {text.splitlines()[0]}"
        for path in repo.of("python")
        if _is_shipped(path)
        for line, text in py_scan.docstrings(path)
        if text.split()[0].strip(".,:;") in NO_SUBJECT
    ]
    repo.report(riddles, "a docstring begins with the noun or the verb that its reader does not know yet")


def _links(path: Path) -> Iterator[tuple[int, str, str]]:
    """Relative links outside of code blocks: line, target and anchor."""
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text(encoding="utf-8"))
    for link in LINK.finditer(text):
        target, _, anchor = link[1].partition("#")
        if ":" not in target:
            yield text.count("\n", 0, link.start()) + 1, target, anchor


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _leads_somewhere(page: Path, target: str, anchor: str) -> bool:
    path = page.parent / target if target else page
    return path.exists() and (not anchor or path.suffix != ".md" or anchor in _anchors(path))


def test_links_in_documents_lead_somewhere() -> None:
    broken = [
        f"{repo.where(path, line)}: {target}#{anchor}"
        for path in repo.of("text")
        for line, target, anchor in _links(path)
        if not _leads_somewhere(path, target, anchor)
    ]
    repo.report(broken, "a link in a document leads to a file, and its anchor to a heading")


def test_documents_that_sources_name_exist() -> None:
    """Comments, errors and tests name pages by their path from the top: `docs/dev/link.md`. Others' have a URL."""
    languages = ("python", "c", "shell", "proto", "text")
    broken = [
        f"{repo.where(path)}: {name}"
        for path in (path for language in languages for path in repo.of(language))
        for name in PAGE.findall(URL.sub("", path.read_text(encoding="utf-8")))
        if not (repo.ROOT / name).exists()
    ]
    repo.report(broken, "a page that a source file names is there")


def test_every_page_is_in_the_index() -> None:
    index = repo.ROOT / "docs" / "README.md"
    listed = {(index.parent / target).resolve() for _, target, _ in _links(index)}
    pages = [path for path in repo.of("text") if path.suffix == ".md" and path.is_relative_to(index.parent)]
    missing = [
        repo.where(page) for page in pages if page != index and page.parent.name != "decisions" and page not in listed
    ]
    repo.report(missing, "docs/README.md links to every page")


def _exists(reference: str) -> bool:
    """A reference is `folder/file`, `folder/file::test_name` or `scripts/name word`."""
    name, _, inside = reference.replace(" ", "::", 1).partition("::")
    path = repo.ROOT / name
    return path.is_file() and (not inside or inside in path.read_text(encoding="utf-8"))


def _budgets() -> Iterator[tuple[int, list[str]]]:
    """Rows of the tables in docs/dev/budgets.md: line and the cells what, budget, measured, how."""
    lines = (repo.ROOT / "docs/dev/budgets.md").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "what" and set(cells[0]) - set("-: "):
            yield number, cells


def _is_backed(cells: list[str]) -> bool:
    references = re.findall(r"`([^`]+)`", cells[3])
    return cells[2] == "not yet" or (bool(references) and all(map(_exists, references)))


def test_every_budget_names_what_measures_it() -> None:
    bad = [
        f"{repo.where(repo.ROOT / 'docs' / 'budgets.md', number)}: {cells[0]}"
        for number, cells in _budgets()
        if len(cells) != 4 or not _is_backed(cells)
    ]
    assert list(_budgets())
    repo.report(bad, "a budget that is measured names, in backticks, an existing test or `scripts/bench WORD`")
