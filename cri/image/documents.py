# SPDX-License-Identifier: Apache-2.0
"""Has manifests, indexes and configs read by the confined process, and checks what comes back.

`Reader` is the pull's, one per pull. The daemon never parses an untrusted document: it gets a few digests, and the
config serialised again (`documentjob`).
"""

import asyncio
import json
from typing import Any, NamedTuple

from cri.image import manifest
from cri.image.lazy_worker import LazyWorker
from cri.image.manifest import Manifest
from stage1.pod import own_kernel
from stage1.rootfs import confined
from stage1.rootfs.confined import Asker, Question
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.forking import ForkServer
from stage1.rootfs.limits import Limits, refusal

_TIMEOUT_S, _CPU_S = 60.0, 120.0


class Top(NamedTuple):
    """A parsed document: an index, of which `chosen` is for this host, or a manifest."""

    chosen: str = ""
    manifest: Manifest | None = None
    sizes: dict[str, int] = {}  # noqa: RUF012 - never changed
    """Sizes in bytes of the layers' blobs that have one."""


class Reader:
    """Reads the documents of the image `name`, in one process, which the first question starts. Close it."""

    def __init__(self, name: str, limits: Limits, server: ForkServer | None = None) -> None:
        self._name, self._limits, self._server = name, limits, server
        self._architecture = manifest.host_architecture()
        self._worker = LazyWorker(self._made)

    def start(self) -> confined.Worker:
        """The process, started if it was not. Blocks. Raises NotFound without util-linux, KernelError, Stopped."""
        return self._worker.get()

    def _made(self) -> confined.Worker:
        question = Question("cri.image.documentjob", (), f"the documents of {self._name}", _CPU_S)
        return confined.Worker(question, Asker(self._limits, server=self._server))

    def close(self) -> None:
        """End the process. Idempotent."""
        self._worker.close()

    async def top(self, data: bytes) -> Top:
        """A manifest or index. Raises Corrupt, OverLimit, BadRequest (no such platform), Unsupported."""
        answer = await self._ask("top", data, what="manifest", most_kib=self._limits.manifest_kib)
        match answer:
            case {"chosen": str(digest)} if manifest.is_digest(digest):
                return Top(digest)
            case {"config": str(config), "layers": list(layers), "sizes": dict(sizes)}:
                known = {key: size for key, size in sizes.items() if type(size) is int and 0 < size < 1 << 60}
                if all(map(manifest.is_digest, [config, *layers])) and len(layers) <= self._limits.layers:
                    return Top("", Manifest(config, tuple(layers)), known)
        raise self._odd("manifest")

    async def config(self, data: bytes, of: Manifest) -> dict[str, Any]:
        """The config, which belongs to the manifest `of`. Raises Corrupt, OverLimit, BadRequest (platform)."""
        what, most = "config", self._limits.config_kib
        answer = await self._ask("config", data, what=what, most_kib=most, more=json.dumps(of))
        if not isinstance(answer, dict):
            raise self._odd(what)
        manifest.check_config(answer, of, name=self._name, architecture=self._architecture)
        return answer

    async def kernel_annotations(self, data: bytes) -> dict[str, str]:
        """The annotations about a kernel in a manifest that `top` has accepted. Raises Corrupt."""
        if own_kernel.OURS.encode() not in data and own_kernel.URUNC.encode() not in data:
            return {}
        answer = await self._ask("annotations", data, what="manifest", most_kib=self._limits.manifest_kib)
        return manifest.of_kernel(answer)

    async def names(self, data: bytes) -> dict[str, str]:
        """The images of an OCI layout's index.json: names, of which one may be empty, with digests. Raises Corrupt."""
        answer = await self._ask("names", data, what="index", most_kib=self._limits.manifest_kib)
        if not isinstance(answer, dict) or not all(map(manifest.is_digest, answer.values())):
            raise self._odd("index")
        return answer

    async def _ask(self, kind: str, data: bytes, *, what: str, most_kib: int, more: str = "") -> Any:
        title = f"the {what} of {self._name}"
        if len(data) > most_kib << 10:
            key = "config_kib" if kind == "config" else "manifest_kib"
            raise refusal(f"{title} has more than {most_kib << 10} bytes", key=key, cap=most_kib)
        arguments = (kind, self._name, self._architecture, json.dumps(self._limits), more)
        # Characters that are not ASCII come back six times as long.
        most_bytes = 65536 + 6 * (most_kib << 10)
        question = Question("cri.image.documentjob", arguments, title, _TIMEOUT_S, answer_bytes=most_bytes)
        return await asyncio.to_thread(lambda: self.start().ask(question, data))

    def _odd(self, what: str) -> Corrupt:
        return Corrupt(f"the {what} of {self._name} could not be parsed; push the image again")
