# SPDX-License-Identifier: Apache-2.0
"""A VMM's usage on the host, for display. Called by the daemon; reads /proc, blocking for a millisecond."""

import os
from typing import NamedTuple

from stage1.errors import KernelError, PodError
from stage1.linux import files, ksm
from stage1.vm import mapping

TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Memory counts shared pages by their part (PSS). `merged_bytes` is what KSM has merged, `dax_bytes` the images
    that the guest shares with the host's page cache.
    """

    pss_bytes: int = 0
    cpu_ms: int = 0
    merged_bytes: int = 0
    dax_bytes: int = 0


def usage(pid: int, directory: str) -> Usage:
    """Return what the VMM `pid` of the pod in `directory` uses; all zero for a process that is gone."""
    try:
        rollup = files.read(f"/proc/{pid}/smaps_rollup").decode()
        fields = files.read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()
    except (KernelError, OSError):
        return Usage()
    pss_kib = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    ticks = int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0
    return Usage(pss_kib * 1024, ticks * 1000 // TICKS, ksm.merged(pid).pages * ksm.PAGE_BYTES, _dax_bytes(directory))


def _dax_bytes(directory: str) -> int:
    try:
        window = mapping.find(directory)
    except (PodError, OSError):  # the pod has just gone
        return 0
    return sum(image.size for image in window.images) if window else 0
