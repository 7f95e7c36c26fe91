# SPDX-License-Identifier: Apache-2.0
"""The start of a VMM that is a copy of a template: its descriptors, and the load of the template, which replaces the
startup check. Called by `starter`; no process is started or ended here.
"""

import os
import socket
from contextlib import ExitStack

from stage1.linux.libc import Guard
from stage1.vm.monitor import Monitor
from stage1.vm.spec import MONITOR_FD
from stage1.vm.template import RAM_FD, STATE_FD, Template


class Ends:
    """A context manager with both ends of the monitor, and the files of the template, which can only be read."""

    def __init__(self, template: Template) -> None:
        """Raises KernelError, also when the template has gone."""
        with ExitStack() as opened:
            files = {STATE_FD: _open(template.state, opened), RAM_FD: _open(template.ram, opened)}
            with Guard("socketpair", "a monitor"):
                self._ours, self._theirs = (opened.enter_context(end) for end in socket.socketpair())
            self._opened = opened.pop_all()
        self.theirs = {MONITOR_FD: self._theirs.fileno(), **files}
        """Descriptors of ours, and the numbers that they have in the VMM."""

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def load(self) -> None:
        """Load the state; the guest runs then, and the monitor is not reachable any more. Raises VmFailed, also if
        the VMM ends.
        """
        self._theirs.close()
        with Monitor(self._ours.detach()) as monitor:
            monitor.load()


def _open(path: str, opened: ExitStack) -> int:
    with Guard("open", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd
