# SPDX-License-Identifier: Apache-2.0
"""The last sandboxes that could not be started, so that they can be explained although there is no pod.

Owned by the node, filled by RunPodSandbox, shown by Status. The newest failure of each of at most `MOST` names is kept,
in one file of the run directory, for the next daemon. It is written in a thread; a failure to write is logged.
"""

import asyncio
import json
import logging
import time
from typing import NamedTuple

from cri.store import codec
from cri.store.history import Fact, printable
from stage1.errors import PodError, both_ends
from stage1.linux import beneath

MOST = 32
ERROR_CHARS, CONSOLE_CHARS = 2000, 8000
VERSION = 1
FILE = "failed.json"
_MOST_BYTES = 8 << 20

log = logging.getLogger("clearpod.pods")


class Failure(NamedTuple):
    """`times` tries of the pod failed, the last one at `at_ns` with `error`, of the class `kind`, whose status code is
    `code`. `facts` and `console` are of its VM, as far as it came.
    """

    namespace: str
    name: str
    uid: str
    attempt: int = 0
    at_ns: int = 0
    first_ns: int = 0
    times: int = 1
    code: str = ""
    kind: str = ""
    error: str = ""
    facts: tuple[Fact, ...] = ()
    console: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """The pod's identity, which is the same in all its attempts."""
        return self.namespace, self.name, self.uid


class _File(NamedTuple):
    failures: tuple[Failure, ...] = ()


class Failures:
    """The sandboxes that could not be started lately, kept in `run_dir` for the next daemon."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir
        self._failures: dict[tuple[str, str, str], Failure] = {}
        self._writing = asyncio.Lock()

    def all(self) -> list[Failure]:
        """Return all failures, oldest first."""
        return list(self._failures.values())

    async def open(self) -> None:
        """Read what the previous daemon wrote down."""
        for failure in await asyncio.to_thread(self._read):
            self._failures.setdefault(failure.key, failure)

    async def add(self, failure: Failure) -> None:
        """Remember it, and forget the oldest one when there are too many. Never raises PodError."""
        now = failure.at_ns or time.time_ns()
        before = self._failures.pop(failure.key, failure._replace(first_ns=now, times=0))
        self._failures[failure.key] = failure._replace(
            at_ns=now,
            first_ns=before.first_ns,
            times=before.times + 1,
            error=both_ends(printable(failure.error), ERROR_CHARS),
            console=failure.console[-CONSOLE_CHARS:],
        )
        while len(self._failures) > MOST:
            del self._failures[next(iter(self._failures))]
        async with self._writing:
            await asyncio.to_thread(self._write, _File(tuple(self._failures.values())))

    def _read(self) -> tuple[Failure, ...]:
        try:
            with beneath.Root(self._run_dir) as place:
                document = json.loads(place.read(FILE, most=_MOST_BYTES, ours=True))
            if not isinstance(document, dict) or document.get("v") != VERSION:
                raise ValueError(f"it is not of version {VERSION}")
            return codec.load(_File, document).failures[-MOST:]
        except FileNotFoundError:
            return ()
        except (PodError, OSError, ValueError, RecursionError) as error:
            log.warning("failures.unreadable", extra={"file": f"{self._run_dir}/{FILE}", "error": str(error)})
            return ()

    def _write(self, content: _File) -> None:
        document = {"v": VERSION, **codec.dump(content)}
        try:
            with beneath.Root(self._run_dir) as place:
                place.write(FILE, json.dumps(document, separators=(",", ":")).encode())
        except (PodError, OSError) as error:
            log.warning("failures.unsaved", extra={"file": f"{self._run_dir}/{FILE}", "error": str(error)})
