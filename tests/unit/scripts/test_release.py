# SPDX-License-Identifier: Apache-2.0
"""`scripts/release` in a small repository of its own: a dry run changes nothing, a real one cuts, commits and tags."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts/release"
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-01-02\n\n- Begun.\n"


class Checkout:
    """A repository with what a release needs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("scripts", "cri"):
            (root / folder).mkdir()
        shutil.copy(SCRIPT, root / "scripts")
        (root / "cri/__init__.py").write_text('"""Many pods."""\n\n__version__ = "0.1.0"\n')
        (root / "CHANGELOG.md").write_text(CHANGELOG)
        self.git("init", "-q")
        for key, value in {"user.name": "n", "user.email": "n@example.org", "tag.gpgSign": "false"}.items():
            self.git("config", key, value)
        self.commit("Begin")
        self.git("tag", "v0.1.0")

    def git(self, *argv: str) -> str:
        done = subprocess.run(["git", *argv], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("-c", "commit.gpgSign=false", "commit", "-qm", message)

    def release(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.root / "scripts/release", *argv], capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return Checkout(tmp_path)


def test_a_dry_run_shows_everything_and_changes_nothing(checkout: Checkout) -> None:
    before = checkout.git("rev-parse", "HEAD")
    done = checkout.release("--dry-run", "0.2.0")
    assert done.returncode == 0, done.stderr
    assert '+__version__ = "0.2.0"' in done.stdout and "+## [0.2.0] - " in done.stdout and "tag v0.2.0" in done.stdout
    assert checkout.git("status", "--porcelain") == "" and checkout.git("rev-parse", "HEAD") == before
    assert checkout.git("tag").split() == ["v0.1.0"]


def test_a_release_is_one_commit_and_a_tag_with_its_notes(checkout: Checkout) -> None:
    done = checkout.release("0.2.0")
    assert done.returncode == 0, done.stderr
    assert checkout.git("log", "--format=%s").split("\n") == ["Release 0.2.0", "Begin"]
    assert "A thing." in checkout.git("tag", "-l", "-n9", "v0.2.0") and checkout.git("status", "--porcelain") == ""
    changelog = (checkout.root / "CHANGELOG.md").read_text()
    assert changelog.index("[Unreleased]") < changelog.index("[0.2.0] - ") < changelog.index("- A thing.")
    assert '__version__ = "0.2.0"' in (checkout.root / "cri/__init__.py").read_text()
    assert "nothing below [Unreleased]" in checkout.release("0.3.0").stderr


@pytest.mark.parametrize(
    ("version", "word"), [("0.1.0", "tag"), ("0.0.9", "older"), ("1.0", "MAJOR.MINOR.PATCH"), ("v1.0.0", "MAJOR")]
)
def test_a_version_that_makes_no_sense_is_refused(checkout: Checkout, version: str, word: str) -> None:
    done = checkout.release("--dry-run", version)
    assert done.returncode == 1 and word in done.stderr


def test_changes_that_are_not_committed_are_refused(checkout: Checkout) -> None:
    (checkout.root / "CHANGELOG.md").write_text(CHANGELOG.replace("A thing", "Another thing"))
    done = checkout.release("--dry-run", "0.2.0")
    assert done.returncode == 1 and "not committed" in done.stderr
