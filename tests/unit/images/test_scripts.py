# SPDX-License-Identifier: Apache-2.0
"""What scripts/*.sh share: help instead of work, a turn for each, and files for the owner of the checkout."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


def bash(place: Path, text: str) -> subprocess.Popen[str]:
    """`text` in `place`, with the functions of lib.sh."""
    argv = ["bash", "-euc", f". {SCRIPTS}/lib.sh; {text}"]
    return subprocess.Popen(argv, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("script", ["run", "test", "lint", "bench", "build-aci", "build-deb", "fuzz"])
def test_help_is_printed_and_nothing_done(script, option):
    done = subprocess.run([SCRIPTS / script, option], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and f"scripts/{script}" in done.stdout


def test_an_option_that_run_does_not_know_is_no_command_for_a_pod():
    done = subprocess.run([SCRIPTS / "run", "--frob"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--frob" in done.stderr and done.stdout == ""


def test_waiting_for_another_script_is_reported(tmp_path):
    (tmp_path / "build").mkdir()
    with open(tmp_path / "build/prepare.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with bash(tmp_path, "take_lock; echo mine; release_lock") as waiting:
            assert waiting.stderr is not None and "waiting" in waiting.stderr.readline()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.communicate()[0] == "mine\n" and waiting.returncode == 0


@pytest.mark.parametrize("owner", [0, 4711])
def test_what_root_has_made_belongs_to_the_checkouts_owner(tmp_path, owner):
    os.chown(tmp_path, owner, owner)
    with bash(
        tmp_path, "take_lock; mkdir -p .venv/bin; touch .venv/bin/x; ln -s /etc/passwd build/link; release_lock"
    ) as made:
        assert made.wait() == 0
    paths = [tmp_path / name for name in ("build", "build/prepare.lock", "build/link", ".venv/bin/x")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(owner, owner)}
    assert os.stat("/etc/passwd").st_uid == 0
