# SPDX-License-Identifier: Apache-2.0
"""The tables of images.db and the way into them, with a copy for the day on which the file is damaged.

Called by `cri.store.images`, and by `clearpod check` for `require_known`. `PRAGMA user_version` is the version of the
tables, and stands for the whole state directory: a newer one than ours is refused before anything is touched, an older
one brought up to date. A commit is on the disk when it returns; the copy is written after it.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from cri.store.disk_errors import explained
from stage1.errors import PodError, WrongState
from stage1.linux import files
from stage1.linux.flock import Lock
from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt

log = logging.getLogger("clearpod.images")

NAME = "images.db"
VERSION = 2
"""2: images that are damaged are put aside (`aside`), and layers are sealed."""
_TABLES = """
CREATE TABLE images (
    id TEXT PRIMARY KEY, number INTEGER UNIQUE, size_bytes INTEGER NOT NULL, config TEXT NOT NULL,
    aside TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE layers (
    image TEXT NOT NULL REFERENCES images ON DELETE CASCADE, position INTEGER NOT NULL, diff_id TEXT NOT NULL,
    PRIMARY KEY (image, position)
) STRICT;
CREATE INDEX layers_by_diff_id ON layers (diff_id);
CREATE TABLE tags (
    name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images ON DELETE CASCADE
) STRICT;
CREATE TABLE digests (
    name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images ON DELETE CASCADE
) STRICT;
"""
_UPGRADES = {1: "ALTER TABLE images ADD COLUMN aside TEXT NOT NULL DEFAULT ''"}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_SIDE_FILES = ("-wal", "-shm")
COPY, DAMAGED = ".copy", ".damaged"
"""Endings: of the copy, and of what was found where the database should have been."""


def require_known(state_dir: str) -> None:
    """Raise WrongState when the images there are a newer clearpod's, PodError when they can't be read. Changes nothing;
    what is damaged is repaired when the daemon begins.
    """
    path = f"{state_dir}/{NAME}"
    if not os.path.exists(path):
        return
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?immutable=1", uri=True)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError:
        return
    _refuse_newer(path, version)


def _refuse_newer(path: str, version: int) -> None:
    if version > VERSION:
        raise WrongState(
            f"{path} is of a newer clearpod (version {version}, this one knows {VERSION}); install that one again, or "
            "remove the directory"
        )


def _make_private(path: str) -> None:
    """Make the database and its side files root's alone, whatever the directory's mode is: images' configurations have
    environments, with secrets in some. SQLite gives side files the mode of the database.

    It is opened only where there is none: closing it would end this process's locks on it.
    """
    with Guard("open", path):
        if not os.path.exists(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        for one in (path, *(f"{path}{ending}" for ending in (*_SIDE_FILES, COPY, DAMAGED))):
            if os.path.exists(one):
                os.chmod(one, 0o600)


class Database:
    """One connection, used by one thread at a time; other processes may have theirs."""

    def __init__(self, path: str) -> None:
        """Raises WrongState for a database of a newer clearpod, NoSpace, PodError.

        A damaged one is moved aside and replaced by the copy, or by an empty one when there is none.
        """
        self._path = path
        self._lock = threading.RLock()
        # Two processes that turn a new database to WAL at once do not wait for each other: one is refused.
        with Lock(f"{path}.lock"):
            try:
                self._open()
                self._require_known()
                self._prepare()
            except Corrupt as error:
                self._replace(str(error))

    def _open(self) -> None:
        _make_private(self._path)
        with self._explained():
            self._db = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)

    def _require_known(self) -> None:
        """Raise WrongState for a newer version, Corrupt for what is no sound database; changes nothing."""
        try:
            version = self._version()
            _refuse_newer(self._path, version)
            if version == 0 and os.path.exists(self._path + COPY):
                raise Corrupt(f"{self._path} is empty")
            with self._explained():
                result = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if result != "ok":
                raise Corrupt(f"{self._path} is damaged: {result[:200]}")
        except BaseException:
            self._db.close()
            raise

    def _version(self) -> int:
        with self._explained():
            return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _prepare(self) -> None:
        """Settings and tables. A commit must outlive a power cut, hence FULL."""
        try:
            with self._explained():
                for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    self._db.execute(f"PRAGMA {setting}")
            is_old = self._version() < VERSION
            with self._transaction() as db:
                version = self._version()
                for statement in _TABLES.split(";\n") if version == 0 else ():
                    db.execute(statement)
                for number in range(version, VERSION) if version else ():
                    db.execute(_UPGRADES[number])
                db.execute(f"PRAGMA user_version = {VERSION}")
            if is_old or not os.path.exists(self._path + COPY):
                self._copy()
        except BaseException:
            self._db.close()
            raise

    def _replace(self, why: str) -> None:
        """Handle a damaged database: use the copy, if it is intact, else an empty one."""
        log.error("images.damaged", extra={"error": f"{why}; it is kept as {self._path}{DAMAGED}"})
        for ending in _SIDE_FILES:
            files.unlink(f"{self._path}{ending}")
        if os.path.exists(self._path):
            os.replace(self._path, self._path + DAMAGED)
        if os.path.exists(self._path + COPY):
            os.replace(self._path + COPY, self._path)
        self._open()
        try:
            self._require_known()
        except Corrupt as error:
            log.error("images.damaged", extra={"error": f"the copy is no better: {error}; pull the images again"})
            files.unlink(self._path)
            self._open()
        self._prepare()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries."""
        with self._lock, self._explained():
            yield self._db

    def state(self) -> tuple[int, int] | None:
        """Differs after each change, another process's too; None while one is made here."""
        with self._lock, self._explained():
            if self._db.in_transaction:
                return None
            return self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process overlaps; undone when the block raises."""
        with self._lock:
            before = self._db.total_changes
            with self._transaction() as db:
                yield db
            if self._db.total_changes != before:
                self._copy()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _copy(self) -> None:
        """Best-effort: without it a damaged database costs all images, and with an older one the last change."""
        temporary = f"{self._path}{COPY}.{os.urandom(6).hex()}~"
        try:
            _make_private(temporary)
            with self._explained(), contextlib.closing(sqlite3.connect(temporary)) as target:
                target.execute("PRAGMA journal_mode = OFF")
                target.execute("PRAGMA synchronous = OFF")
                self._db.backup(target)
            files.sync(temporary)
            os.replace(temporary, self._path + COPY)
        except (PodError, OSError) as error:
            log.warning("images.copy", extra={"error": f"{self._path}{COPY} could not be written: {error}"})
            files.unlink(temporary)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith(_DAMAGE):
                raise Corrupt(f"{self._path} is damaged ({error}); start clearpod again, it has a copy") from error
            raise explained(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
