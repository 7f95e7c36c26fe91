# SPDX-License-Identifier: Apache-2.0
"""Templates: a guest whose agent has booted, saved, of which any number of VMs are copies. What a VM has to do with
one, as data. For the drivers, the jail and `starter`. Pure.

The guest's memory is a file that its maker wrote to, and that each copy maps privately: what none of them has changed
is in the host's page cache once. The state of the devices beside it is small. No copy can write to either.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

Command = tuple[str, dict[str, Any]]


STATE_FD, RAM_FD = 13, 14
"""Descriptors of a copy in its jail: the state of the devices and the memory, both to be read only."""
RAM_LINK = f"/proc/self/fd/{RAM_FD}"
"""A copy's path to its memory: QEMU opens a file by its path only, and there is no other one in the jail."""
STATE_SET = 2
"""QEMU's name of a descriptor as a file."""

STATE_URI = f"file:/dev/fdset/{STATE_SET}"
_CAPABILITIES = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
BEGIN: tuple[Command, ...] = (
    ("qmp_capabilities", {}),
    ("migrate-set-capabilities", {"capabilities": _CAPABILITIES}),
)
LOAD: tuple[Command, ...] = (*BEGIN, ("migrate-incoming", {"uri": STATE_URI}))
"""The commands for the monitor, sent at once: QEMU reads them when it is ready. The copied guest runs then."""

ARGUMENT = "clearpod.template"
"""Tells the agent to mount no share before it knows its pod: docs/dev/link.md."""
_DENTRIES_PER_MIB, _INODES_PER_MIB = 16, 8
"""Buckets of the guest's tables of names and inodes, an eighth of the kernel's own choice: each file that a copy looks
at writes to a bucket of its own, and so takes a page of the table for the copy alone.
"""

_SLABS = "slub_max_order=0"
"""Slabs are single pages: the kernel writes into all of a new one, which would be up to eight pages for one object."""
_GIVING_BACK = ("page_reporting.page_reporting_order=0", "sysctl.vm.percpu_pagelist_high_fraction=100000")
"""Each page that the guest frees is reported, and the lists of free pages that processors keep for themselves, of which
nothing is reported, are as short as can be.
"""


def arguments(memory_mib: int, *, gives_back: bool = False) -> tuple[str, ...]:
    """Words of the kernel command line of a guest of that size that is to be saved, and of its copies. `gives_back`:
    their VMMs can give back what they free.
    """
    tables = (("dhash_entries", _DENTRIES_PER_MIB), ("ihash_entries", _INODES_PER_MIB))
    own = tuple(f"{name}={per_mib * memory_mib}" for name, per_mib in tables)
    return (ARGUMENT, *own, _SLABS, *(_GIVING_BACK if gives_back else ()))


def spoken(commands: Sequence[Command]) -> str:
    """The commands as QEMU's monitor takes them, a line each."""
    return "".join(json.dumps({"execute": name, "arguments": arguments}) + "\n" for name, arguments in commands)


class Template(NamedTuple):
    """A template in `directory`, and what the VM is to it: its maker, which gets our descriptor `monitor` for QEMU's
    monitor, or without one (-1) a copy of it.
    """

    directory: str
    monitor: int = -1

    @property
    def is_made(self) -> bool:
        """Whether the VM is the one that is saved."""
        return self.monitor >= 0

    @property
    def ram(self) -> str:
        """The file with the guest's memory."""
        return f"{self.directory}/ram"

    @property
    def memory(self) -> str:
        """The path at which the VMM opens it: when it is made the file itself, in a copy the passed descriptor."""
        return self.ram if self.is_made else RAM_LINK

    @property
    def state(self) -> str:
        """The file with the state of the devices."""
        return f"{self.directory}/state"
