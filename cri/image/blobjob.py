# SPDX-License-Identifier: Apache-2.0
"""Brings the blobs of an image's layers from a registry into files: the part of `direct` that runs in the confined
process. Asks for documents too, as `digestjob`, so that a token serves for all.

A blob that does not come plainly and whole has no file here. Must not look into one.
"""

import contextlib
import json
import os
import threading
from collections import deque

from cri.image import digestjob
from cri.image.asked import BLOBS, LED, Asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.client import HTTPResponse

AT_ONCE = 3
PART = ".part"
_STALLED_S = 30.0
_CHUNK_BYTES = 1 << 18


def job(arguments: tuple[str, ...], data: bytes) -> str:
    """Like `digestjob.job`. With `blobs`, digests and sizes as JSON: each blob is written to a file of `out`, which
    is named by its digest in hex once it is complete. Return the number of blobs; `LED` and a host when the registry
    leads there in vain.
    """
    if not arguments or arguments[0] != BLOBS:
        return digestjob.job(arguments, data)
    count, led = bring(Asked(*json.loads(data)), json.loads(arguments[1]), directory="out")
    return f"{LED}{led}" if led else str(count)


def bring(asked: Asked, sizes: dict[str, int], *, directory: str) -> tuple[int, str]:
    """Like `job`, into `directory`: the number of blobs, and the host that one is said to be at but is not."""
    todo, whole, led = deque(sizes.items()), list[str](), list[str]()

    def work() -> None:
        with contextlib.suppress(IndexError):
            while True:
                digest, size = todo.popleft()
                try:
                    if _bring(asked._replace(reference=digest), size, path=f"{directory}/{digest.partition(':')[2]}"):
                        whole.append(digest)
                except digestjob.Elsewhere as error:
                    led.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(min(AT_ONCE, len(sizes)) - 1)]
    with contextlib.suppress(RuntimeError):  # no more threads: we do it alone
        for thread in threads:
            thread.start()
    work()
    for thread in threads:
        if thread.ident:
            thread.join()
    return len(whole), led[0] if led else ""


def _bring(asked: Asked, size: int, *, path: str) -> bool:
    for scheme in digestjob.schemes(asked):
        url = digestjob.url_of(f"blobs/{asked.reference}", scheme, asked=asked)
        answer = digestjob.followed("GET", url, asked=asked, timeout_s=_STALLED_S)
        with contextlib.suppress(*digestjob.FAULTS), answer as response:
            return response.status == 200 and _save(response, path, size=size)
    return False


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
