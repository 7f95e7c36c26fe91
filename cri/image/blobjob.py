# SPDX-License-Identifier: Apache-2.0
"""Brings the blobs of an image's layers from a registry into files: the part of `direct` that runs in the confined
process. Asks for documents too, as `digestjob`, so that a token serves for all.

A blob that does not come plainly and whole has no file here. Must not look into one.
"""

import contextlib
import json
import os
import threading
import urllib.parse
from collections import deque

from cri.image import digestjob
from cri.image.asked import BLOBS, Asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.client import HTTPResponse

AT_ONCE = 3
PART = ".part"
_STALLED_S = 30.0
_CHUNK_BYTES = 1 << 18
_MOST_DETOURS = 5
_ELSEWHERE = {301, 302, 303, 307, 308}


def job(arguments: tuple[str, ...], data: bytes) -> str:
    """Like `digestjob.job`. With `blobs`, digests and sizes as JSON: each blob is written to a file of `out`, which
    is named by its digest in hex once it is complete. Return the number of blobs.
    """
    if not arguments or arguments[0] != BLOBS:
        return digestjob.job(arguments, data)
    return str(bring(Asked(*json.loads(data)), json.loads(arguments[1]), directory="out"))


def bring(asked: Asked, sizes: dict[str, int], *, directory: str) -> int:
    """Like `job`, into `directory`."""
    todo, whole = deque(sizes.items()), list[str]()

    def work() -> None:
        with contextlib.suppress(IndexError):
            while True:
                digest, size = todo.popleft()
                if _bring(asked._replace(reference=digest), size, path=f"{directory}/{digest.partition(':')[2]}"):
                    whole.append(digest)

    threads = [threading.Thread(target=work) for _ in range(min(AT_ONCE, len(sizes)) - 1)]
    with contextlib.suppress(RuntimeError):  # no more threads: we do it alone
        for thread in threads:
            thread.start()
    work()
    for thread in threads:
        if thread.ident:
            thread.join()
    return len(whole)


def _bring(asked: Asked, size: int, *, path: str) -> bool:
    for scheme in digestjob.schemes(asked):
        with contextlib.suppress(*digestjob.FAULTS):
            return _followed(asked, scheme, size=size, path=path)
    return False


def _followed(asked: Asked, scheme: str, *, size: int, path: str) -> bool:
    """Follow the registry's redirect to the blob. Credentials are sent only to the registry itself, and a redirect from
    TLS to plain HTTP is refused.
    """
    url = start = digestjob.url_of(f"blobs/{asked.reference}", scheme, asked=asked)
    header, was_refused = digestjob.granted(asked, scheme), False
    for _ in range(_MOST_DETOURS + 1):
        with digestjob.response_of("GET", url, asked=asked, authorization=header, timeout_s=_STALLED_S) as response:
            if response.status == 200:
                return _save(response, path, size=size)
            if response.status == 401 and not was_refused and url == start:
                was_refused, header = True, digestjob.authorization(response.headers, scheme, asked=asked)
            elif response.status in _ELSEWHERE and (place := _detour(url, response.headers.get("Location", ""))):
                url, header = place, header if _is_same(place, url) else ""
            else:
                return False
    return False


def _detour(url: str, location: str) -> str:
    """The target of a registry's redirect from `url`; empty if there is none, or if it would drop TLS."""
    place = urllib.parse.urljoin(url, location)
    return place if urllib.parse.urlsplit(place).scheme in {"https", urllib.parse.urlsplit(url).scheme} else ""


def _is_same(url: str, other: str) -> bool:
    return urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(other)[:2]


def _save(response: "HTTPResponse", path: str, *, size: int) -> bool:
    """Whether the body has `size` bytes, which are in the file then. What comes is in the file at once, however slowly
    it comes, since that is how the daemon sees that something does; what is not whole leaves nothing.
    """
    if response.length not in (None, size) or response.headers.get("Content-Encoding", "identity") != "identity":
        return False
    part, left = f"{path}{PART}", size
    try:
        with open(part, "xb", buffering=0) as file:
            while left and (data := response.read1(min(left, _CHUNK_BYTES))):
                left -= len(data)
                piece = memoryview(data)
                while piece:
                    piece = piece[file.write(piece) :]
        if left or response.read(1):
            return False
        os.rename(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    return True
