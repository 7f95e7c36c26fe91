# SPDX-License-Identifier: Apache-2.0
"""A page of the reference: its head, and tables in Markdown. Used by the pages."""

from collections.abc import Iterable


def page(title: str, *parts: str) -> str:
    """The whole text of a page."""
    made = "<!-- Made by scripts/gen-reference from the code; do not edit. -->"
    return "\n\n".join([f"# {title}", made, *(part.strip() for part in parts)]) + "\n"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells may hold Markdown; a bar is escaped."""
    heads = tuple(heads)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *lines])


def link(text: str) -> str:
    """Names of other pages, as sources have them (docs/dev/link.md), become links."""
    words = []
    for word in text.split(" "):
        name = word.rstrip(".,;:)")
        if name.startswith("docs/") and name.endswith(".md"):
            path = name.removeprefix("docs/")
            word = f"[{path}](../{path}){word.removeprefix(name)}"
        words.append(word)
    return " ".join(words)
