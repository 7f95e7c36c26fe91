# SPDX-License-Identifier: Apache-2.0
"""Fetches an image's manifest, config and layers by a confined process, without the three starts of skopeo.

Called by the source of one pull. Best-effort: without an answer skopeo asks, and reports errors. The answer is not
trusted: the caller compares it with a digest. Must not parse it.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import weakref

from cri.config import Config
from cri.image.asked import BLOBS, LED
from cri.image.digests import question
from cri.image.lazy_worker import LazyWorker
from cri.image.registries import Auth
from cri.image.skopeo import Misled, RegistryUnavailable
from cri.store.reference import Reference
from cri.threads import await_end, run_apart, run_uncancellable
from stage1.errors import PodError, TimedOut
from stage1.linux import sandbox
from stage1.rootfs import confined
from stage1.rootfs.confined import Asker, Question
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.forking import ForkServer
from stage1.rootfs.layout import hex_of

log = logging.getLogger("clearpod.pull")

MODULE = "cri.image.blobjob"
_ANSWER_S, _DOWNLOAD_S, _CPU_S = 6.0, 3600.0, 3600.0
MOST_AT_ONCE = 8
"""Downloads of images by such processes, of which each has some threads and they all one user. Others are skopeo's."""
_downloading: "weakref.WeakSet[Direct]" = weakref.WeakSet()
_WHAT = "a registry's answer"


class Direct:
    """One registry, as one user sees it, for one pull. Close it."""

    def __init__(
        self, reference: Reference, *, config: Config, auth: Auth | None, server: ForkServer | None, box: str = ""
    ) -> None:
        """`box` is a directory that is made for layers; without it there are none."""
        self._name = str(reference)
        self._asked = question(reference, config=config, auth=auth) if server else None
        self._limits, self._server, self._box = config.images.limits, server, box
        self._worker = LazyWorker(self._made)

    def start(self) -> confined.Worker | None:
        """The process, started if it was not and there is one to be. Blocks. Raises KernelError, Stopped."""
        return self._worker.get() if self._asked and not sandbox.means().lacks else None

    def _made(self) -> confined.Worker:
        if self._box:
            confined.make_box(self._box, uid=self._limits.uid)
        kind = Question(MODULE, (), _WHAT, _CPU_S, self._box, network=True)
        return confined.Worker(kind, Asker(self._limits, server=self._server))

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
            self._require_led_well(answer)
            return base64.b64decode(answer, validate=True)[:most]
        except Misled:
            raise
        except (PodError, TypeError, ValueError) as error:
            log.info("pull.document", extra={"error": str(error)})
            self._asked = None
            await run_uncancellable(self.close)
            return b""

    def _require_led_well(self, answer: object) -> None:
        """Raise Misled when the registry leads elsewhere in vain and there are credentials: skopeo would follow too,
        and show them to another port of the same host. Without credentials it may try.
        """
        if self._asked and self._asked.user and isinstance(answer, str) and answer.startswith(LED):
            raise Misled(self._name, answer[len(LED) :])

    def brings(self) -> bool:
        """Whether blobs can be brought now."""
        return bool(self._asked and self._box and self._worker.is_open and len(_downloading) < MOST_AT_ONCE)

    async def bring(self, sizes: dict[str, int]) -> None:
        """Fetch the blobs with these digests, as far as that succeeds without skopeo; call `adopt` while they arrive,
        and at the end.

        Raises RegistryUnavailable after an hour, and Misled.
        """
        question = Question(MODULE, (BLOBS, json.dumps(sizes)), _WHAT, _DOWNLOAD_S)
        _downloading.add(self)
        asking = asyncio.ensure_future(
            run_apart(lambda: self._worker.get().ask(question, json.dumps(self._asked).encode()))
        )
        try:
            self._require_led_well(await asyncio.shield(asking))
        except Misled:
            raise
        except TimedOut:
            raise RegistryUnavailable(f"the registry took more than {_DOWNLOAD_S:.0f} s; try again later") from None
        except PodError as error:
            log.info("pull.blobs", extra={"error": str(error)})
        finally:
            _downloading.discard(self)
            if not asking.done():
                try:
                    await run_uncancellable(self.close)  # and the thread gets an error
                finally:
                    await await_end(asking)

    def adopt(self, sizes: dict[str, int], *, directory: str) -> None:
        """Move the files of those blobs that are whole to `directory`. Blocks."""
        try:
            names = set(os.listdir(f"{self._box}/out"))
        except FileNotFoundError:
            return
        for digest, size in sizes.items():
            if (name := hex_of(digest)) in names:
                with contextlib.suppress(
                    Corrupt, FileNotFoundError
                ):  # skopeo brings it then, or another thread was first
                    confined.adopt(self._box, name, target=f"{directory}/{name}", most_bytes=size)

    def discard(self) -> None:
        """End the process, and remove what it has brought in part. Blocks. Idempotent."""
        self.close()
        confined.remove_box(self._box)

    def close(self) -> None:
        """End the process. Idempotent. Blocks: one that a registry keeps busy is given time before it is killed."""
        self._worker.close()
