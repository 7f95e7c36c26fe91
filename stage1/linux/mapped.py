# SPDX-License-Identifier: Apache-2.0
"""The pages of programs and libraries that this process has mapped. Called where much was used once: by the daemon's
Trimmer (`heap`), and by the processes that wait for pulls.
"""

import re
from collections.abc import Iterable, Iterator

from stage1.errors import PodError
from stage1.linux import libc

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[-x]p .* /")
"""Of a private mapping of a file that can't be written to."""
_MADV_DONTNEED = 4


def release() -> None:
    """Unmap all pages of files that nobody can have changed; what is needed again comes back from the page cache, in
    pieces of 64 KiB. Takes some milliseconds. Best-effort.

    A start touches three times as many of them as are used afterwards.
    """
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
            unchanged = [*_unchanged(file)]
        for start, end in unchanged:
            libc.call("madvise", start, end - start, _MADV_DONTNEED, what="pages of files")
    except (OSError, PodError):
        pass  # no descriptor is free


def _unchanged(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The beginnings and ends of mappings of files that have none but the files' own pages. A page that the loader has
    relocated, or a debugger has changed, is none of these.
    """
    head = None
    for line in smaps:
        if not line[0].isupper():
            head = _HEAD.match(line)
        elif head and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield int(head[1], 16), int(head[2], 16)
