# SPDX-License-Identifier: Apache-2.0
"""Who owns the pods: one daemon for each run directory and each state directory, held by locks on files in them.

Taken by `clearpod serve` before anything else. `clearpod run` and rkt have directories of their own for their pods, and
share of the state directory only what has its own locks.
"""

import contextlib
import os
from collections.abc import Iterator

from cri.config import Config
from stage1.errors import AlreadyExists, WrongState
from stage1.linux import files
from stage1.linux.flock import Lock

LOCK = "daemon.lock"


@contextlib.contextmanager
def own(config: Config) -> Iterator[None]:
    """Be the only daemon of the run directory and of the state directory, until the block or this process ends.

    A second one with only one of them in common would take pods of the first for remains. Raises AlreadyExists.
    """
    places = {"run_dir": (config.run_dir, 0o711), "state_dir": (config.state_dir, 0o700)}
    with contextlib.ExitStack() as held:
        owned: set[str] = set()
        for key, (path, mode) in places.items():
            files.make_dirs(path, mode)
            real = os.path.realpath(path)
            if real not in owned:
                _take(held, real, key=key)
            owned.add(real)
        yield


def _take(held: contextlib.ExitStack, path: str, *, key: str) -> None:
    try:
        held.enter_context(Lock(f"{path}/{LOCK}", wait=False))
    except WrongState:
        raise AlreadyExists(f"another daemon already owns the pods in {path}; stop it, or set {key}") from None
