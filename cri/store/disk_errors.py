# SPDX-License-Identifier: Apache-2.0
"""SQLite's errors as errors of the disk below it. Called by `schema`.

SQLite does not pass the errno on: what it calls an I/O error is a full disk when the disk is full.
"""

import errno
import os
import sqlite3

from stage1.errors import DiskFailed, NoSpace, PodError

FULL_BYTES = 1 << 20
"""With less free than this a disk counts as full: the index of SQLite's log alone takes 32 KiB at a time."""


def explained(path: str, error: sqlite3.Error) -> PodError:
    """The error to raise for the database at `path`."""
    name = getattr(error, "sqlite_errorname", "")
    is_disk = name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
    is_full, is_read_only = (
        _disk_state(path) if is_disk else (name == "SQLITE_FULL", name.startswith("SQLITE_READONLY"))
    )
    if is_read_only:
        return DiskFailed("write", errno.EROFS, path)
    if is_full:
        return NoSpace(f"{path}: the disk is full; free some space")
    if is_disk:
        return DiskFailed("write", errno.EIO, path)
    return PodError(f"{path}: {error}; check the file and its disk")


def _disk_state(path: str) -> tuple[bool, bool]:
    """Whether the disk is full, and whether it is read-only."""
    try:
        disk = os.statvfs(os.path.dirname(path))
    except OSError:
        return False, False
    return disk.f_bavail * disk.f_frsize < FULL_BYTES, bool(disk.f_flag & os.ST_RDONLY)
