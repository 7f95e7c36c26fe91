# SPDX-License-Identifier: Apache-2.0
"""The names of pods in the foreground: each is one pod's while its `clearpod run` lives. Used by `foreground`.

A name is a file with the pod's id, locked by its process: the kernel lets go of it when that dies. It must not look at
the daemon's pods, whose names the daemon keeps.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from stage1.errors import AlreadyExists
from stage1.linux import files, flock
from stage1.linux.libc import Guard

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_ID_BYTES = 64


@contextmanager
def claimed(run_dir: str, name: str, *, pod_id: str) -> Iterator[None]:
    """The name is the pod's in the block. Raises AlreadyExists with the pod that has it."""
    path = f"{run_dir}/names/{hashlib.sha256(os.fsencode(name)).hexdigest()}"
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    fd = _locked(path, name)
    try:
        with Guard("write", path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, pod_id.encode(), 0)
        yield
    finally:
        files.unlink(path)
        os.close(fd)


def remove_orphans(run_dir: str) -> None:
    """Remove the names of processes that were killed."""
    directory = f"{run_dir}/names"
    for entry in os.listdir(directory) if os.path.isdir(directory) else ():
        path = f"{directory}/{entry}"
        try:
            fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            continue
        if flock.take(fd, wait=False) and _is_at(fd, path):
            os.unlink(path)
        os.close(fd)


def _locked(path: str, name: str) -> int:
    """Return the open file of the name. Whoever releases a name removes its file, so a file that was opened before
    that is opened again.
    """
    while True:
        with Guard("open", path):
            fd = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        if flock.take(fd, wait=False):
            if _is_at(fd, path):
                return fd
            os.close(fd)
            continue
        owner = os.pread(fd, _ID_BYTES, 0).decode(errors="replace")[:13] or "that just begins"
        os.close(fd)
        raise AlreadyExists(f"the name {name} is that of the pod {owner}, which still runs; give another --name")


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
