# SPDX-License-Identifier: Apache-2.0
"""Files that another process has open, removed ones too. Called by the daemon's guard of the disk; reads /proc."""

import os
import stat


def written_blocks(pid: int, device: int, *, but: int) -> int:
    """Blocks of 512 bytes of the regular files on `device` that the process has open to write to, each once, without
    that of the inode `but`. 0 for one that is gone.
    """
    blocks: dict[int, int] = {}
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                status = os.stat(f"/proc/{pid}/fd/{number}")
                if stat.S_ISREG(status.st_mode) and status.st_dev == device and _is_written(pid, number):
                    blocks[status.st_ino] = status.st_blocks
            except OSError:  # it was closed meanwhile
                continue
    except OSError:
        return 0
    return sum(count for inode, count in blocks.items() if inode != but)


def _is_written(pid: int, number: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
        flags = next((line for line in file if line.startswith("flags:")), "flags: 0")
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
