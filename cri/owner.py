# SPDX-License-Identifier: Apache-2.0
"""The ownership of pods: one daemon for each run directory and each state directory, held by locks on files in them;
and none that is older than what it would find there.

Taken by `clearpod serve` before anything else, with its sockets and ports. What begins with `require` changes nothing,
so that `clearpod check` asks the same. `clearpod run` and rkt have directories of their own for their pods, and share
of the state directory only what has its own locks.
"""

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator

from cri.config import Config
from stage1.errors import AlreadyExists, BadRequest, PodError, WrongState
from stage1.linux import beneath, files, mount
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
        with beneath.Root(config.run_dir) as root:
            if require_known(root, config.run_dir) < VERSION:
                root.write(FORMAT, f"{VERSION}\n".encode())
        yield


def outlives_a_boot(run_dir: str) -> str:
    """Why what a daemon writes there is not gone after a boot, in a sentence; empty on a tmpfs."""
    if (kind := mount.type_of(run_dir)) in ("tmpfs", "ramfs"):
        return ""
    return (
        f"{run_dir} (run_dir) is on {kind or 'an unknown file system'}, not on a tmpfs: after a reboot the daemon "
        "would find pods there that do not exist; mount a tmpfs there, or set run_dir to a directory on one"
    )


def require_known(root: beneath.Root, run_dir: str) -> int:
    """The format version of the run directory, 0 when it has none. Raises WrongState for a newer one."""
    try:
        version = int(root.read(FORMAT, most=_FORMAT_BYTES))
    except (FileNotFoundError, ValueError, PodError):
        return 0  # unowned, of an earlier version, or damaged: the pods' own files tell then
    if version > VERSION:
        raise WrongState(
            f"the pods in {run_dir} are of a newer clearpod (version {version}, this one knows {VERSION}); install "
            "that one again, or reboot"
        )
    return version


def _take(held: contextlib.ExitStack, path: str, *, key: str) -> None:
    try:
        held.enter_context(Lock(f"{path}/{LOCK}", wait=False))
    except WrongState:
        raise AlreadyExists(f"another daemon already owns the pods in {path}; stop it, or set {key}") from None


def claim_path(path: str, *, key: str) -> None:
    """Make the parent directory of a socket, and remove that of a dead daemon. `key` is the configuration's for it.

    Raises AlreadyExists if a process answers on it, BadRequest if it is not a socket.
    """
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    if not require_socket(path, key=key):
        return
    if answers(path):
        raise AlreadyExists(f"another daemon already listens on {path}; stop it or set {key} to another path")
    os.unlink(path)


def require_socket(path: str, *, key: str) -> bool:
    """Whether there is anything. Raises BadRequest when it is something else than a socket."""
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
    if not is_socket:
        raise BadRequest(f"{path} exists and is not a socket; remove it or set {key} to another path")
    return True


def answers(path: str) -> bool:
    """Whether a process listens on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def listener(address: str, port: int, *, table: str) -> socket.socket:
    """A socket that listens there; `table` is the configuration's for it. The caller closes it.

    Raises AlreadyExists for a port that is taken, BadRequest for an address that is not this host's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        where = f"{table}.address {address}, port {port}"
        if error.errno == errno.EADDRINUSE:
            raise AlreadyExists(f"{where}: the port is taken; choose another, or 0 for any") from None
        raise BadRequest(f"{where}: can't listen there: {error.strerror}") from None


def group_id(name: str) -> int:
    """Return the id of the socket's group. Raises BadRequest when this machine has no group of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise BadRequest(f'the group "{name}" of socket.group does not exist on this machine') from None
