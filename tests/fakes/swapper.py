# SPDX-License-Identifier: Apache-2.0
"""A guest or a VMM that exchanges two names in a directory as fast as it can, from a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = """
import ctypes, os, sys
one, other = os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3])
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None)
print("ready", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)  # AT_FDCWD, RENAME_EXCHANGE
"""


@contextmanager
def swapping(directory: Path, one: str, other: str) -> Iterator[None]:
    """Both names are in `directory`; it has begun, and ends with the block, after which each may be either."""
    command = [sys.executable, "-c", PROGRAM, str(directory), one, other]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()
