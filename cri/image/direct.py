# SPDX-License-Identifier: Apache-2.0
"""Asks a registry for the small documents of an image by a confined process, without the three starts of skopeo.

Called by the source of one pull. Best-effort: without an answer skopeo asks, and says what is wrong. What comes back is
nobody's word for anything: the caller compares it with a digest. Must not parse it.
"""

import asyncio
import base64
import json
import logging

from cri.config import Config
from cri.image.digests import question
from cri.image.lazy_worker import LazyWorker
from cri.image.registries import Auth
from cri.store.reference import Reference
from stage1.errors import PodError
from stage1.linux import sandbox
from stage1.rootfs import confined
from stage1.rootfs.confined import Asker, Question
from stage1.rootfs.forking import ForkServer

log = logging.getLogger("clearpod.pull")

MODULE = "cri.image.digestjob"
_ANSWER_S, _CPU_S = 6.0, 60.0
_WHAT = "a registry's answer"


class Direct:
    """One registry, as one user sees it, for one pull. Close it."""

    def __init__(self, reference: Reference, *, config: Config, auth: Auth | None, server: ForkServer | None) -> None:
        self._asked = question(reference, config=config, auth=auth) if server else None
        self._limits, self._server = config.images.limits, server
        self._worker = LazyWorker(self._made)

    def start(self) -> confined.Worker | None:
        """The process, started if it was not and there is one to be. Blocks. Raises KernelError, Stopped."""
        return self._worker.get() if self._asked and not sandbox.means().lacks else None

    def _made(self) -> confined.Worker:
        return confined.Worker(
            Question(MODULE, (), _WHAT, _CPU_S, network=True), Asker(self._limits, server=self._server)
        )

    async def manifest(self, reference: str) -> bytes:
        """The manifest or index of that tag or digest; empty without an answer."""
        return await self._document("manifest", reference, most_kib=self._limits.manifest_kib)

    async def config(self, digest: str) -> bytes:
        """The config of that digest; empty without an answer."""
        return await self._document("blob", digest, most_kib=self._limits.config_kib)

    async def _document(self, kind: str, reference: str, *, most_kib: int) -> bytes:
        most = most_kib << 10
        question = Question(MODULE, (kind, reference, str(most)), _WHAT, _ANSWER_S, answer_bytes=65536 + 2 * most)
        try:
            worker = await asyncio.to_thread(self.start)
            if worker is None:
                return b""
            answer = await asyncio.to_thread(worker.ask, question, json.dumps(self._asked).encode())
            return base64.b64decode(answer, validate=True)[:most]
        except (PodError, TypeError, ValueError) as error:
            log.info("pull.document", extra={"error": str(error)})
            self.close()
            self._asked = None
            return b""

    def close(self) -> None:
        """End the process. Idempotent."""
        self._worker.close()
