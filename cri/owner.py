# SPDX-License-Identifier: Apache-2.0
"""Who owns the pods: one daemon for each run directory and each state directory, held by locks on files in them; and
none that is older than what it would find there.

Taken by `clearpod serve` before anything else. `clearpod run` and rkt have directories of their own for their pods, and
share of the state directory only what has its own locks.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

from cri.config import Config
from stage1.errors import AlreadyExists, BadRequest, PodError, WrongState
from stage1.linux import beneath, files
from stage1.linux.flock import Lock

LOCK = "daemon.lock"
FORMAT, VERSION = "format", 1
"""File in the run directory with the version of all that is in there: raised when a daemon of today could not adopt
pods of tomorrow, whose VMs it would end. The state directory's version is that of images.db.
"""
_FORMAT_BYTES = 20


@contextlib.contextmanager
def own(config: Config) -> Iterator[None]:
    """Be the only daemon of the run directory and of the state directory, until the block or this process ends.

    A second one with only one of them in common would take pods of the first for remains. Raises AlreadyExists;
    WrongState when a newer clearpod has used the run directory, in which nothing is touched then.
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
        _require_known(config.run_dir)
        yield


def _require_known(run_dir: str) -> None:
    with beneath.Root(run_dir) as root:
        try:
            version = int(root.read(FORMAT, most=_FORMAT_BYTES))
        except (FileNotFoundError, ValueError, PodError):
            version = 0  # nobody's, or a former version's, or damaged: then the pods' own files tell
        if version > VERSION:
            raise WrongState(
                f"the pods in {run_dir} are of a newer clearpod (version {version}, this one knows {VERSION}); install "
                "that one again, or reboot"
            )
        if version < VERSION:
            root.write(FORMAT, f"{VERSION}\n".encode())


def _take(held: contextlib.ExitStack, path: str, *, key: str) -> None:
    try:
        held.enter_context(Lock(f"{path}/{LOCK}", wait=False))
    except WrongState:
        raise AlreadyExists(f"another daemon already owns the pods in {path}; stop it, or set {key}") from None


def claim_path(path: str, *, key: str) -> None:
    """Make the parent directory of a socket, and remove that of a dead daemon. `key` is the configuration's for it.

    Raises AlreadyExists when somebody answers on it, BadRequest when it is something else than a socket.
    """
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise BadRequest(f"{path} exists and is not a socket; remove it or set {key} to another place")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise AlreadyExists(f"another daemon already listens on {path}; stop it or set {key} to another place")
    os.unlink(path)
