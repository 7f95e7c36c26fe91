# SPDX-License-Identifier: Apache-2.0
"""Asks a registry for the digest of a reference's manifest, by a confined process that stays for a while.

Called by the pull for an image that is present: starting skopeo costs more than all the rest of such a pull.
Best-effort: without an answer skopeo asks, and reports errors. Must not parse a registry's response: `digestjob` does,
in a process for each registry and user, so that one that a registry has compromised can't answer for another.
"""

import asyncio
import contextlib
import json
import logging
import os
import threading
import time

from cri.config import Config
from cri.image import manifest, registries
from cri.image.asked import Asked
from cri.image.registries import Auth
from cri.store.reference import Reference
from cri.threads import obtained
from stage1.errors import PodError
from stage1.rootfs import confined
from stage1.rootfs.confined import Asker, Question
from stage1.rootfs.limits import Limits

log = logging.getLogger("clearpod.pull")

KEEP_S = 10.0
"""How long the process, which has 24 MB, is kept after a request."""
AGAIN_S = 60.0
"""Within what time a second request makes it start."""
BUSY_S = 0.2
"""The longest wait for earlier requests; after that skopeo asks instead."""
MOST = 4
"""Processes at the same time."""
_TIMEOUT_S = 6.0
_CPU_S = 3600
_ELSEWHERE = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that only skopeo follows, and not for a registry on the loopback."""


class Digests:
    """Asks registries for digests, by a process for each registry and user. Safe for tasks of one event
    loop. Close it.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Registry] = {}

    async def of(self, reference: Reference, *, config: Config, auth: Auth | None) -> str:
        """The digest of the manifest or index that the registry has now, or empty."""
        if (asked := question(reference, config=config, auth=auth)) is None:
            return ""
        key = (asked.registry, asked.user)
        one = self._known[key] = self._known.pop(key) if key in self._known else _Registry()
        if len(self._known) > MOST:
            self._known.pop(next(iter(self._known))).close()  # the one that was asked longest ago
        return await one.ask(asked, config.images.limits)

    def close(self) -> None:
        """End all processes, in threads. Idempotent; a later question starts another."""
        for one in self._known.values():
            one.close()


class _Registry:
    """One registry, as one user sees it, and the process that asks it, if there is one."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._worker: confined.Worker | None = None
        self._asked_s = -AGAIN_S
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, asked: Asked, limits: Limits) -> str:
        """A digest, or empty."""
        before, self._asked_s = self._asked_s, time.monotonic()
        if self._worker is None:
            if self._asked_s - before >= AGAIN_S:
                return ""
            await self._start(limits)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BUSY_S):
                await self._lock.acquire()
            try:
                return await self._ask(asked)
            finally:
                self._lock.release()
        return ""

    async def _start(self, limits: Limits) -> None:
        """Start the process, which reads the certificates of the authorities first."""
        kind = Question("cri.image.digestjob", (), "a registry's answer", _CPU_S, network=True, answer_bytes=200)
        with contextlib.suppress(PodError):
            worker = await obtained(confined.Worker, self._end, kind, Asker(limits))
            if self._worker is None:
                self._worker = worker
                self._stay()
            else:
                self._end(worker)

    async def _ask(self, asked: Asked) -> str:
        worker = self._worker
        if worker is None:
            return ""
        self._stay()
        kind = Question("cri.image.digestjob", (), "a registry's answer", _TIMEOUT_S, answer_bytes=200)
        try:
            answer = await asyncio.to_thread(worker.ask, kind, json.dumps(asked).encode())
        except PodError as error:
            log.info("pull.digest", extra={"error": str(error)})
            self.close()
            return ""
        return answer if manifest.is_digest(answer) else ""

    def _stay(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(KEEP_S, self.close)

    def close(self) -> None:
        """Like `Digests.close`."""
        if self._timer:
            self._timer.cancel()
        worker, self._worker = self._worker, None
        if worker:
            self._end(worker)

    def _end(self, worker: confined.Worker) -> None:
        threading.Thread(target=worker.close, name="digests").start()


def question(reference: Reference, *, config: Config, auth: Auth | None) -> Asked | None:
    """The request, or None if only skopeo can make it, because of a mirror, a proxy, or a token of the client's.
    Raises BadRequest, Unsupported (of credentials).
    """
    entry = registries.entry_of(reference, config.registries)
    if any("*" in one.prefix for one in config.registries) or (entry and entry.mirrors):
        return None
    name = reference.name
    if entry and entry.location:
        name = entry.location.rstrip("/") + name[len(entry.prefix.rstrip("/")) :]
    registry, _, path = name.partition("/")
    is_here = registries.is_loopback(registry)
    if not is_here and any(os.environ.get(name) or os.environ.get(name.lower()) for name in _ELSEWHERE):
        return None
    user = registries.user_of(auth, reference)
    if user is None:
        return None
    is_insecure = entry.insecure if entry else is_here
    what = reference.digest or reference.tag
    return Asked(registry, path, what, is_insecure, user)
