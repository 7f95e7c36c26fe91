# SPDX-License-Identifier: Apache-2.0
"""The processes of the machine, so that a test finds its own by a word of theirs. Others come and go meanwhile."""

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
