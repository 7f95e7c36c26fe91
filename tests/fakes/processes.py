# SPDX-License-Identifier: Apache-2.0
"""The processes of the machine, so that a test finds its own by a word of theirs. Others come and go meanwhile, and so
do threads and descriptors: what has gone between a list and a look is left out.
"""

import os
from contextlib import suppress
from pathlib import Path


def command_lines() -> dict[int, str]:
    """Pid -> command line, with NUL after each word."""
    result = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            result[int(path.parent.name)] = path.read_text(errors="replace")
        except OSError:  # it has ended
            continue
    return result


def children(pid: "int | str" = "self") -> set[int]:
    """The children of all threads of a process."""
    result: set[int] = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError):
            result |= set(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split()))
    return result


def descriptors(pid: "int | str" = "self") -> dict[int, str]:
    """What a process has open, by its number."""
    result = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            result[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return result


def statuses(pid: int) -> list[dict[str, str]]:
    """The lines of `status` of each thread of a process."""
    result = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/task/{task}/status").read_text(encoding="utf-8")
            result.append(dict(line.split(":\t", 1) for line in text.splitlines()))
    return result
