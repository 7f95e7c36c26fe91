# SPDX-License-Identifier: Apache-2.0
"""Has manifests, indexes and configs read by the confined process, and checks what comes back.

`Reader` is the pull's, one per pull; `job` runs in the process (`stage1.rootfs.child`). The daemon never parses a
document that somebody else wrote: it gets a few digests, and the config written anew.
"""

import asyncio
import json
from typing import Any, NamedTuple

from cri.image import manifest
from cri.image.manifest import Manifest
from stage1.rootfs import confined
from stage1.rootfs.confined import Asker, Question
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, refusal

_TIMEOUT_S = 60.0
_REF_NAME = "org.opencontainers.image.ref.name"
_MOST_NAMES = 10_000


class Found(NamedTuple):
    """What a document turned out to be: an index, of which `chosen` is for this host, or a manifest."""

    chosen: str = ""
    manifest: Manifest | None = None
    sizes: dict[str, int] = {}  # noqa: RUF012 - never changed
    """Bytes of those blobs of layers that say it."""


class Reader:
    """Reads the documents of the image `name`."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name, self._limits = name, limits
        self._architecture = manifest.host_architecture()

    async def top(self, data: bytes) -> Found:
        """A manifest or index. Raises Corrupt, OverLimit, BadRequest (no such platform), Unsupported."""
        answer = await self._ask("top", data, what="manifest", most_kib=self._limits.manifest_kib)
        match answer:
            case {"chosen": str(digest)} if manifest.is_digest(digest):
                return Found(digest)
            case {"config": str(config), "layers": list(layers), "sizes": dict(sizes)}:
                known = {key: size for key, size in sizes.items() if type(size) is int and 0 < size < 1 << 60}
                if all(map(manifest.is_digest, [config, *layers])) and len(layers) <= self._limits.layers:
                    return Found("", Manifest(config, tuple(layers)), known)
        raise self._odd("manifest")

    async def config(self, data: bytes, of: Manifest) -> dict[str, Any]:
        """The config, which belongs to the manifest `of`. Raises Corrupt, OverLimit, BadRequest (platform)."""
        what, most = "config", self._limits.config_kib
        answer = await self._ask("config", data, what=what, most_kib=most, more=json.dumps(of))
        if not isinstance(answer, dict):
            raise self._odd(what)
        manifest.check_config(answer, of, name=self._name, architecture=self._architecture)
        return answer

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
        words = (kind, self._name, self._architecture, json.dumps(self._limits), more)
        # Characters that are not ASCII come back six times as long.
        question = Question("cri.image.documents", words, title, _TIMEOUT_S, answer_bytes=65536 + 6 * (most_kib << 10))
        return await asyncio.to_thread(confined.ask, question, Asker(self._limits), given=data)

    def _odd(self, what: str) -> Corrupt:
        return Corrupt(f"the {what} of {self._name} was not understood; push the image again")


def job(words: tuple[str, ...]) -> Any:
    """In the confined process, with the document as standard input."""
    kind, name, architecture, given, more = words
    limits = Limits(*json.loads(given))
    with open(0, "rb") as file:
        data = file.read()
    if kind == "names":
        return _names(data, name)
    if kind == "config":
        config, layers = json.loads(more)
        of = Manifest(config, tuple(layers))
        return manifest.read_config(data, of, name=name, architecture=architecture, limits=limits)
    if chosen := manifest.choose(data, architecture, name=name, limits=limits):
        return {"chosen": chosen}
    found = manifest.read_manifest(data, name=name, limits=limits)
    return {"config": found.config, "layers": found.layers, "sizes": manifest.sizes(data)}


def _names(data: bytes, name: str) -> dict[str, str]:
    try:
        entries = json.loads(data)["manifests"]
        found = {str(e.get("annotations", {}).get(_REF_NAME, "")): str(e["digest"]) for e in entries[:_MOST_NAMES]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Corrupt(f"the index of {name} is not the index of an OCI layout") from None
    return found
