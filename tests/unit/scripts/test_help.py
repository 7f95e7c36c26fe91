# SPDX-License-Identifier: Apache-2.0
"""`--help` of everything in scripts/: it says how the script is called, with an example, and does nothing."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
NAMES = sorted(path.name for path in SCRIPTS.iterdir() if os.access(path, os.X_OK))
WORKS = ("sudo", "apt-get", "pip", "gcc", "make", "docker-registry", "qemu-system-x86_64")


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_the_usage_and_does_nothing(name: str, tmp_path: Path) -> None:
    for program in WORKS:  # each would say so, and fail
        (tmp_path / program).write_text("#!/bin/sh\necho work was begun >&2; exit 1\n")
        (tmp_path / program).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        [SCRIPTS / name, "--help"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{name}" in done.stdout
