# SPDX-License-Identifier: Apache-2.0
"""What a VMM takes on the host, for people who look. Called by the daemon; reads /proc, blocking for a millisecond."""

import os
from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import files

TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Memory counts shared pages by their part (PSS)."""

    pss_bytes: int = 0
    cpu_ms: int = 0


def usage(pid: int) -> Usage:
    """All zero for a process that is gone."""
    try:
        rollup = files.read(f"/proc/{pid}/smaps_rollup").decode()
        words = files.read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()
    except (KernelError, OSError):
        return Usage()
    pss_kib = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    ticks = int(words[11]) + int(words[12]) if len(words) > 12 else 0
    return Usage(pss_kib * 1024, ticks * 1000 // TICKS)
