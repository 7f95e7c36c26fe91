# SPDX-License-Identifier: Apache-2.0
"""Tests assert an error's type and its key nouns, so that its sentence can be changed without touching them."""

from pathlib import Path

import pytest

from tests.style import prose_scan, repo

pytestmark = pytest.mark.style

MOST_WORDS = 3


def test_no_test_asserts_the_prose_of_an_error() -> None:
    long = [
        f"{repo.where(path, line)}: {text!r}"
        for path in repo.of("python")
        if path.relative_to(repo.ROOT).parts[0] == "tests"
        for line, text in prose_scan.asserted(path)
        if prose_scan.words(text) > MOST_WORDS
    ]
    repo.report(long, f"a test names what an error is about in at most {MOST_WORDS} words and its values")


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("the pod can get no network", 6),
        ("network: .*10\\.conflist", 1),
        ("volume 'v' .*true or false, .*'yes'", 1),
        ("tap0: No such file or directory", 0),
        ("a digest|the registry is away", 4),
        ("vm.memory_mib .*CPU_SHARES /etc/passwd --net", 0),
    ],
)
def test_values_and_messages_of_the_system_are_no_prose(pattern: str, count: int) -> None:
    assert prose_scan.words(pattern) == count


@pytest.mark.parametrize(
    "code",
    [
        "def test() -> None:\n    with pytest.raises(E, match=LONG):\n        pass",
        "def test() -> None:\n    assert LONG in str(caught.value)",
        "def test() -> None:\n    assert call.details() == LONG",
        "@pytest.mark.parametrize('n, why', [(1, LONG)])\ndef test(n, why):\n    assert str(caught.value) == why",
    ],
)
def test_the_rule_finds_what_it_is_for(tmp_path: Path, code: str) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(code.replace("LONG", "'the pod can get no network'"))
    assert [text for _, text in prose_scan.asserted(path)] == ["the pod can get no network"]
