# SPDX-License-Identifier: Apache-2.0
"""Things that are built once per machine, kept by the hash of what they are made from.

Used by the builders. A build happens beside its place and is renamed into it, under a lock, so that two builders do the
work once and a crash leaves nothing half made.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

LAST_TIME = "last-time"
"""A file beside the things of a kind: the seconds that the last one took, as text."""
WORTH_TELLING_S = 5


def say(text: str) -> None:
    """One line for the person who waits."""
    print(f"images: {text}", file=sys.stderr, flush=True)


class BuildFailed(Exception):
    """One sentence: what could not be built, why, what to do."""


def hash_of(parts: Iterable[str | bytes | Path]) -> str:
    """16 hex digits of texts, bytes, and the content and mode of files; a directory stands for all below it."""
    digest = hashlib.sha256()
    for part in parts:
        for chunk in _chunks(part):
            digest.update(len(chunk).to_bytes(8, "little") + chunk)
    return digest.hexdigest()[:16]


def _chunks(part: str | bytes | Path) -> Iterable[bytes]:
    if isinstance(part, Path):
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.name.encode()
                yield path.read_bytes()
    else:
        yield part.encode() if isinstance(part, str) else part


def built(cache: Path, kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `<cache>/<kind>/<key>`; when it is absent, `build` is called with an empty one to fill."""
    place = cache / kind / key
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f"{key}.lock", "w") as lock:
        _take(lock, kind)
        if not place.is_dir():
            _remove_orphans(place.parent)
            _tell_time(place.parent)
            begin = time.monotonic()
            _build(place, build)
            write_atomic(place.parent / LAST_TIME, f"{time.monotonic() - begin:.0f}\n")
    return place


def _tell_time(directory: Path) -> None:
    """Say how long the last build of this kind took, if anybody noticed."""
    with contextlib.suppress(OSError, ValueError):
        if (seconds := int((directory / LAST_TIME).read_text())) >= WORTH_TELLING_S:
            say(f"building {directory.name}, which took {seconds} s the last time")


def _take(lock: TextIO, kind: str) -> None:
    """Wait for the lock, with a word to the person when somebody holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{kind}: another build makes the same; waiting for it, it holds {lock.name}")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _remove_orphans(directory: Path) -> None:
    """Remove what builders left that were killed: temporary directories whose lock nobody holds."""
    for temporary in directory.glob("*.new"):
        with open(temporary.with_suffix(".lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(temporary, ignore_errors=True)


def _build(place: Path, build: Callable[[Path], None]) -> None:
    temporary = place.with_name(f"{place.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        build(temporary)
        os.rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(source: Path, target: Path) -> bool:
    """Put a copy of `source` at `target` in one step unless the bytes are there already; true when it did."""
    if target.is_file() and target.stat().st_size == source.stat().st_size and same_bytes(source, target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    shutil.copy2(source, temporary)
    os.replace(temporary, target)
    return True


def write_atomic(target: Path, text: str) -> None:
    """Give `target` this content in one step; nothing happens when it has it."""
    if not target.exists() or target.read_text() != text:
        temporary = _temporary(target)
        temporary.write_text(text)
        os.replace(temporary, target)


def _temporary(target: Path) -> Path:
    """A name of this process's own, so that two builders do not write into one file."""
    return target.with_name(f".{target.name}.{os.getpid()}.new")


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two files hold the same."""
    return sha256(a) == sha256(b)


def sha256(path: Path) -> str:
    """Of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
