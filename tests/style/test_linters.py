# SPDX-License-Identifier: Apache-2.0
"""The linters, each as a test: one word to run them all, and one place to read what they say."""

import sys

import pytest

from tests.style import repo

pytestmark = pytest.mark.style


def test_ruff_finds_nothing() -> None:
    repo.check("ruff", "check", "--quiet", "--output-format=concise")


def test_mypy_strict_finds_nothing() -> None:
    repo.check("mypy", "--no-error-summary")


def test_imports_follow_the_arrows() -> None:
    repo.check("lint-imports", "--no-logo", "--cache-dir", "build/cache/imports", env={"PYTHONPATH": "."})


def test_shellcheck_finds_nothing() -> None:
    scripts = [str(path.relative_to(repo.ROOT)) for path in repo.of("shell")]
    assert scripts
    repo.check("shellcheck", "--external-sources", "--format=gcc", *scripts)


def test_generated_code_is_not_older_than_its_contract() -> None:
    repo.check("scripts/gen-proto", "--check", env={"PYTHON": sys.executable})
