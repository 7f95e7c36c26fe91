# SPDX-License-Identifier: Apache-2.0
"""The hypervisors that clearpod has a driver for, the preferred one first. Used to choose one, to name them to users,
and to recognise a VMM among the host's processes. Another one is a new file next to the others, and a line here.
"""

import os

from stage1.linux.host import HostFacts, host_facts
from stage1.vm import kvmtool, qemu

ALL = (
    kvmtool.HYPERVISOR,
    qemu.HYPERVISOR,
)


def names() -> tuple[str, ...]:
    """Return the names of all hypervisors, as in the configuration."""
    return tuple(one.name for one in ALL)


def kernels() -> tuple[str, ...]:
    """Return the names of the kernel files that they boot."""
    return tuple(dict.fromkeys(one.kernel for one in ALL))


def is_program(path: str) -> bool:
    """Whether the program at this path is a hypervisor."""
    return any(one.is_program(os.path.basename(path)) for one in ALL)


def facts() -> HostFacts:
    """Facts about this host, with the hypervisors' programs. Takes some milliseconds and changes nothing."""
    return host_facts()._replace(programs={one.name: one.find() for one in ALL})
