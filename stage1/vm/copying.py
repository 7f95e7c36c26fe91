# SPDX-License-Identifier: Apache-2.0
"""What the VMM of a copy of a template begins with: its descriptors, and the load of the template, which takes the
place of the startup check. Called by `starter`; no process is started or ended here.
"""

import os
import socket

from stage1.linux.libc import Guard
from stage1.vm.monitor import Monitor
from stage1.vm.template import MONITOR_FD, STATE_FD, Template


class Ends:
    """A context manager with both ends of the monitor and the state of the devices."""

    def __init__(self, template: Template) -> None:
        """Raises KernelError, also when the template has gone."""
        with Guard("open", template.state):
            state = os.open(template.state, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Guard("socketpair", "a monitor"):
                self._ours, self._theirs = socket.socketpair()
        except BaseException:
            os.close(state)
            raise
        self.theirs = {MONITOR_FD: self._theirs.fileno(), STATE_FD: state}
        """Descriptors of ours, and the numbers that they have in the VMM."""

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.theirs[STATE_FD])
        self._ours.close()
        self._theirs.close()

    def load(self) -> None:
        """Load the state; the guest goes on then, and nobody can reach the monitor any more. Raises VmFailed, also when
        the VMM ends: the other end is its own from now on.
        """
        self._theirs.close()
        with Monitor(self._ours.detach()) as monitor:
            monitor.load()
