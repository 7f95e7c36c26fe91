# SPDX-License-Identifier: Apache-2.0
"""The seal of a layer's or an image's files: a size and a checksum for each, in a file next to them.

Made by `layers` and the pull when the files are complete, compared by the image store. A file is synced before it is
sealed, so a seal that survives a power cut belongs to a file that survived it too. Untrusted bytes are counted and
hashed, no more.
"""

import json
import os
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple

from stage1.errors import Exhausted, PodError
from stage1.linux import files, supervise
from stage1.linux.libc import Guard, explained
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Image

VERSION = 1
_CHUNK_BYTES = 1 << 20
_EROFS, _JSON = ".erofs", ".json"


class Seal(NamedTuple):
    """The expected state of a file: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str


def of(paths: Iterable[str], stop: Callable[[], bool] = supervise.never) -> list[Seal]:
    """Sync the files, read them all meanwhile, and seal them. Raises KernelError, Missing, NoSpace, Stopped."""
    paths = tuple(paths)
    for path in paths:
        files.begin_sync(path)
    digests = [_sha256(path, stop) for path in paths]
    for path in paths:  # of small ones the first brings all to the disk
        files.sync(path)
    return [Seal(os.path.getsize(path), digest) for path, digest in zip(paths, digests, strict=True)]


def write(path: str, seals: dict[str, Seal], *, merged_from: tuple[str, ...] = ()) -> None:
    """Put the seals of some files of a directory, by name, durably at `path`.

    `merged_from` are the checksums of the layers of an image, to which its `merged.erofs` fits.
    """
    document = {"v": VERSION, "files": seals, "merged_from": merged_from}
    files.write_atomic(path, json.dumps(document).encode(), durable=True)


def read(path: str) -> tuple[dict[str, Seal], tuple[str, ...]]:
    """The seals that `write` wrote. Raises Corrupt if they are damaged, FileNotFoundError without one; Exhausted."""
    try:
        document = json.loads(files.read(path))
        if document["v"] != VERSION:
            raise Corrupt(f"{path} is of another version of clearpod ({str(document['v'])[:20]}); pull the image again")
        seals = {str(name): Seal(int(size), str(sha)) for name, (size, sha) in document["files"].items()}
        return seals, tuple(map(str, document["merged_from"]))
    except (FileNotFoundError, Exhausted):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, PodError) as error:
        raise Corrupt(f"{path} can't be understood ({error!r:.100}); pull the image again") from None


def broken(path: str, seal: Seal | None) -> str:
    """A visible difference between a file and its seal, as the end of a sentence; empty when there is none.

    Without a seal, as in stores of former versions: whether an erofs file has the size in its superblock, and a JSON
    document an end. Raises Exhausted, which is no statement about the file.
    """
    try:
        size = os.stat(path).st_size
        if seal and size != seal.size:
            return f"has {size} bytes instead of {seal.size}"
        if path.endswith(_EROFS):
            with Image(path):
                pass
        elif not seal and path.endswith(_JSON) and _last_byte(path) != b"}":
            return "is cut off"
    except FileNotFoundError:
        return "is not there"
    except Corrupt:
        return "is a truncated erofs file"
    except OSError as error:
        if isinstance(why := explained("open", error), Exhausted):
            raise why from None
        return f"can't be read ({error.strerror})"
    return ""


def _last_byte(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 1))
        return file.read(1)


def differs(path: str, seal: Seal, *, stop: Callable[[], bool] = supervise.never) -> str:
    """Like `broken`, which is checked first, and by reading the whole file. Raises Stopped, Exhausted."""
    if why := broken(path, seal):
        return why
    try:
        digest = _sha256(path, stop)
    except (FileNotFoundError, PodError) as error:
        if isinstance(error, (supervise.Stopped, Exhausted)):
            raise
        return f"can't be read ({error})"
    if digest == seal.sha256:
        return ""
    return broken(path, seal) or "has contents that differ from its seal"  # it may have been cut while it was read


def _sha256(path: str, stop: Callable[[], bool]) -> str:
    digest = sha256()
    with Guard("read", path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while chunk := os.read(fd, _CHUNK_BYTES):
                digest.update(chunk)
                if stop():
                    raise supervise.Stopped("the check was cancelled")
        finally:
            os.close(fd)
    return digest.hexdigest()
