# SPDX-License-Identifier: Apache-2.0
"""Mounts in unit tests happen in a mount namespace of their own, in a subprocess that dies with the test."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.linux import mount

InNamespace = Callable[[str], str]

_PROLOGUE = """
import os, sys
from stage1.errors import KernelError, PodError
from stage1.linux import files, mount, namespace
namespace.unshare(namespace.NEW_NS)
mount.set_propagation("/", mount.MS_PRIVATE | mount.MS_REC)
T = sys.argv[1]
mount.mount("t", T, "tmpfs", 0, "size=1m")
"""


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")


@pytest.fixture
def in_namespace(tmp_path: Path) -> InNamespace:
    """Runs code in a new mount namespace with an empty tmpfs of 1 MiB at `T`; gives what it printed."""
    need_root()

    def run(code: str) -> str:
        argv = [sys.executable, "-c", _PROLOGUE + code, str(tmp_path)]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


@pytest.fixture
def tiny_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    need_root()
    target = tmp_path / "tiny"
    target.mkdir()
    mount.mount("tiny", str(target), "tmpfs", 0, "size=64k")
    yield target
    mount.umount(str(target))
