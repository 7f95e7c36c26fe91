# SPDX-License-Identifier: Apache-2.0
"""Where tests keep what they make: a directory on a disk, with a short name. Used by conftests, rigs and benchmarks.

/tmp, unless that is a tmpfs: no erofs image can be mounted from there, and full disks could not be tried.
"""

import os
import subprocess
import tempfile


def _is_memory(path: str) -> bool:
    done = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip() in ("tmpfs", "ramfs")


ROOT = "/var/tmp" if _is_memory("/tmp") else "/tmp"


def short_name(prefix: str) -> str:
    """As much of the prefix as leaves a directory's `run` within the 22 bytes that a run_dir may have."""
    return prefix if ROOT == "/tmp" else prefix[-1:]


def short_directory(prefix: str = "cp") -> "tempfile.TemporaryDirectory[str]":
    """A new directory, whose name is short since a unix socket's path has at most 107 bytes."""
    return tempfile.TemporaryDirectory(prefix=short_name(prefix), dir=ROOT)


def use() -> None:
    """Have this process, its children and pytest's `tmp_path` keep their files there as well."""
    if "TMPDIR" not in os.environ and ROOT != "/tmp":
        os.environ["TMPDIR"] = ROOT
        tempfile.tempdir = None
