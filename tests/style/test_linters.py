# SPDX-License-Identifier: Apache-2.0
"""The linters, each as a test: one command runs them all, and their output is in one place."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.style import repo

pytestmark = pytest.mark.style

CLANG_FORMAT = ("clang-format-19",)
"""Other versions lay out some things differently."""


def test_ruff_finds_nothing() -> None:
    repo.check("ruff", "check", "--quiet", "--output-format=concise")


def test_the_format_is_ruffs() -> None:
    repo.check("ruff", "format", "--check", "--quiet")


def test_codespell_finds_nothing() -> None:
    if not shutil.which("codespell"):
        pytest.skip("there is no codespell; scripts/lint installs it")
    languages = ("python", "c", "shell", "proto", "text")
    repo.check("codespell", *(str(path.relative_to(repo.ROOT)) for language in languages for path in repo.of(language)))


def test_the_format_of_c_is_clang_formats() -> None:
    program = next((name for name in CLANG_FORMAT if shutil.which(name)), None)
    if not program:
        pytest.skip("there is no clang-format; scripts/lint installs it")
    sources = [str(path.relative_to(repo.ROOT)) for path in repo.of("c")]
    assert sources
    repo.check(program, "--dry-run", "--Werror", *sources)


def test_mypy_strict_finds_nothing() -> None:
    repo.check("mypy", "--no-error-summary")


@pytest.mark.slow
def test_names_that_tests_use_exist() -> None:
    """A test of a VM that names what was renamed would only fail where it is run, hours later."""
    config = "--config-file=tests/style/mypy.ini"  # that of setup.cfg for others, whose cache it shares
    argv = [sys.executable, "-m", "mypy", config, "--explicit-package-bases", "tests"]
    done = subprocess.run(argv, cwd=repo.ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    missing = re.compile(r"^tests/.*error: (Module .*has no attribute|Name .* is not defined|Unexpected keyword)")
    repo.report(list(filter(missing.match, done.stdout.splitlines())), "what a test names is there")


def test_imports_follow_the_layers() -> None:
    repo.check("lint-imports", "--no-logo", "--cache-dir", "build/cache/imports", env={"PYTHONPATH": "."})


def test_shellcheck_finds_nothing() -> None:
    scripts = [str(path.relative_to(repo.ROOT)) for path in repo.of("shell")]
    assert scripts
    repo.check("shellcheck", "--external-sources", "--format=gcc", *scripts)


def test_generated_code_is_not_older_than_its_contract() -> None:
    repo.check("scripts/gen-proto", "--check", env={"PYTHON": sys.executable})


def test_hooks_of_pre_commit_are_local() -> None:
    text = (repo.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (.*)", text) == ["local"]
    assert set(re.findall(r"language: (.*)", text)) == {"system"}
