# SPDX-License-Identifier: Apache-2.0
"""The files of the repository, sorted by language, and running a checker on them.

Used by the style tests only. Reads; never writes outside build/.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".sh": "shell", ".proto": "proto", ".md": "text"}
SHEBANGS = {"python": "python", "sh": "shell", "bash": "shell"}


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or would be, committed."""
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(ROOT / name for name in sorted(set(names)) if name and (ROOT / name).is_file())


def _language(path: Path) -> str:
    if path.suffix in LANGUAGES:
        return LANGUAGES[path.suffix]
    with path.open("rb") as file:
        first = file.readline(200)
    if not first.startswith(b"#!"):
        return ""
    return next((kind for word, kind in SHEBANGS.items() if word in first.decode(errors="replace")), "")


@cache
def of(language: str) -> tuple[Path, ...]:
    """The files of one language: python, c, shell, proto, text. Scripts are known by their first line."""
    return tuple(path for path in files() if _language(path) == language)


def where(path: Path, line: int = 1) -> str:
    """Name a place the way editors understand it: file:line, relative to the root."""
    return f"{path.relative_to(ROOT)}:{line}"


def report(violations: list[str], rule: str) -> None:
    """Fail with the rule and one violation a line, without a traceback."""
    if violations:
        pytest.fail("\n".join([f"{rule} ({len(violations)})", *violations]), pytrace=False)


def check(*argv: str, env: dict[str, str] | None = None) -> None:
    """Run a checker in the root; fail with its output. Tools beside this interpreter come first."""
    directory = Path(sys.executable).parent
    path = f"{directory}:{os.environ['PATH']}"
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": path, **(env or {})}
    )
    if done.returncode:
        pytest.fail(f"{' '.join(argv)[:200]}\n{done.stdout}{done.stderr}", pytrace=False)
