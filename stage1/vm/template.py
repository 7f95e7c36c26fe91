# SPDX-License-Identifier: Apache-2.0
"""Templates: a guest whose agent has booted, saved, of which any number of VMs are copies. What a VM has to do with
one, as data. For the drivers, the jail and `starter`. Pure.

The guest's memory is a file that its maker wrote to, and that each copy maps privately: what none of them has changed
is in the host's page cache once. The state of the devices beside it is small. No copy can write to either.
"""

from typing import NamedTuple

MONITOR_FD, STATE_FD = 12, 13
"""Descriptors of a VMM in its jail: QEMU's monitor, and for a copy the state of the devices."""
STATE_SET = 2
"""By which QEMU knows a descriptor as a file."""

ARGUMENT = "clearpod.template"
"""Tells the agent to mount no share before it knows its pod: docs/dev/link.md."""


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
    def state(self) -> str:
        """The file with the state of the devices."""
        return f"{self.directory}/state"
