# SPDX-License-Identifier: Apache-2.0
"""The tables of images.db and the way into them. Called by `cri.store.images` only.

`PRAGMA user_version` is the version of the tables; a newer one than ours is refused, older ones would be
brought up to date here.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stage1.errors import NoSpace, PodError, WrongState
from stage1.linux.flock import Lock

VERSION = 1
_TABLES = """
CREATE TABLE images (
    id TEXT PRIMARY KEY, number INTEGER UNIQUE, size_bytes INTEGER NOT NULL, config TEXT NOT NULL
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


class Database:
    """One connection, used by one thread at a time; other processes may have theirs."""

    def __init__(self, path: str) -> None:
        """Raises WrongState for a database of a newer clearpod, NoSpace, PodError when it is damaged."""
        self._path = path
        self._lock = threading.RLock()
        with self._explained():
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            # Two processes that turn a new database to WAL at once do not wait for each other: one is refused.
            with Lock(f"{path}.lock"), self._explained():
                for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                    self._db.execute(f"PRAGMA {setting}")
                self._create()
        except BaseException:
            self._db.close()
            raise

    def _create(self) -> None:
        with self.change() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise WrongState(f"{self._path} is of a newer clearpod (version {version}); upgrade, or remove it")
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries."""
        with self._lock, self._explained():
            yield self._db

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process overlaps; undone when the block raises."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise NoSpace(f"{self._path}: the disk is full; free some space") from None
            raise PodError(f"{self._path}: {error}; if it is damaged, remove it and pull the images again") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()
