# SPDX-License-Identifier: Apache-2.0
"""Keeps garbage collection apart from pods that are being attached, between processes. Called by attach and upkeep.

There is one lock for this host, since plugins have one memory, whoever calls them: daemons, `clearpod run`, rkt. It is
held shared by those who attach: they never wait for each other.
"""

import fcntl
import os

from stage1.linux import files

PLACE = "/run/clearpod-networks"


class Turn:
    """`with Turn():` no garbage is collected; `alone`: and nobody attaches. On the lock of the directory `place`."""

    def __init__(self, *, alone: bool = False, place: str = PLACE) -> None:
        self._place, self._how = place, fcntl.LOCK_EX if alone else fcntl.LOCK_SH

    def __enter__(self) -> None:
        files.make_dirs(self._place, 0o700)
        self._fd = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, self._how)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
