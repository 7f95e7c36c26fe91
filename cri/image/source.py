# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from: a registry, an OCI layout on disk, or an archive that `docker save` wrote.

Called by the pull. A source says which image it has now (`resolve`) and then brings the blobs (`fetch`).
Local files are read by whoever runs this, so only `clearpod run` may offer `oci:` and `docker-archive:`;
the CRI does not.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cri.config import Config
from cri.image import manifest, registries
from cri.image.manifest import Manifest
from cri.image.progress import Download, watched
from cri.image.registries import Auth
from cri.image.skopeo import Skopeo
from cri.store.reference import Reference, parse
from stage1.errors import NotFound
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.layout import hex_of

_REF_NAME = "org.opencontainers.image.ref.name"


class Resolved(NamedTuple):
    """An image, verified down to its config. `tag` and `digest` are the names that it shall have."""

    manifest: Manifest
    manifest_bytes: bytes
    config: dict[str, Any]
    config_bytes: bytes
    tag: str = ""
    digest: str = ""


class Source(Protocol):
    """One per pull."""

    name: str

    async def resolve(self) -> Resolved:
        """Which image it is now; brings no layers."""
        ...

    async def fetch(self, resolved: Resolved, wanted: Collection[str]) -> str:
        """Bring the blobs of the layers that are `wanted`; the directory they are in, named by hex."""
        ...


def source_of(text: str, work_dir: str, *, config: Config, auth: Auth | None) -> Source:
    """The source that `text` names. Raises BadRequest."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "oci":
        return LayoutSource(text, *_split_layout(rest))
    if colon and kind == "docker-archive":
        return ArchiveSource(text, work_dir)
    return RegistrySource(parse(text), work_dir, config=config, auth=auth)


def _split_layout(rest: str) -> tuple[str, str]:
    """DIR[:REF]; a colon in DIR counts as such when there is a directory of that name."""
    if os.path.isdir(rest):
        return rest, ""
    directory, _, ref = rest.rpartition(":")
    return (directory, ref) if directory else (rest, "")


class RegistrySource:
    """skopeo asks the registry three times in small, then once for the layers that are missing."""

    def __init__(self, reference: Reference, work_dir: str, *, config: Config, auth: Auth | None) -> None:
        self.name = str(reference)
        self._reference, self._work_dir = reference, work_dir
        known = config.registries
        _write(f"{work_dir}/registries.conf", registries.registries_conf(known, reference))
        _write(f"{work_dir}/auth.json", registries.authfile(auth, reference, registries=known))
        self._skopeo = Skopeo(work_dir, name=self.name)
        self._fetches = 0

    async def resolve(self) -> Resolved:
        """Follows the tag once; everything after goes by digest."""
        architecture = manifest.host_architecture()
        raw = await self._skopeo.inspect(f"docker://{self._reference}")
        digest = self._reference.digest or manifest.digest_of(raw)
        manifest.verified(raw, digest)
        if chosen := manifest.choose(raw, architecture, name=self.name):
            raw = manifest.verified(await self._skopeo.inspect(f"docker://{self._reference.name}@{chosen}"), chosen)
        found = manifest.read_manifest(raw, name=self.name)
        self._exact = f"docker://{self._reference.name}@{manifest.digest_of(raw)}"
        config = manifest.verified(await self._skopeo.inspect(self._exact, config=True), found.config)
        document = manifest.read_config(config, found, name=self.name, architecture=architecture)
        tag = "" if self._reference.digest else self.name
        return Resolved(found, raw, document, config, tag, f"{self._reference.name}@{digest}")

    async def fetch(self, resolved: Resolved, wanted: Collection[str]) -> str:
        """skopeo skips what is there by name, so an empty file stands for each blob that is not needed."""
        self._fetches += 1
        place = f"{self._work_dir}/fetch{self._fetches}"
        os.makedirs(f"{place}/blobs/sha256", mode=0o700)
        for digest in set(resolved.manifest.layers) - set(wanted):
            _write(f"{place}/blobs/sha256/{hex_of(digest)}", "")
        sizes = manifest.sizes(resolved.manifest_bytes)
        known = all(digest in sizes for digest in wanted)
        total = sum(sizes[digest] for digest in wanted) if known else 0
        copy = self._skopeo.copy(self._exact, f"{place}/layout", blobs=f"{place}/blobs")
        await watched(copy, Download(self.name, place, total))
        return f"{place}/blobs/sha256"


class LayoutSource:
    """An OCI layout is read where it lies."""

    def __init__(self, name: str, directory: str, ref: str) -> None:
        self.name, self._directory, self._ref = name, directory, ref

    async def resolve(self) -> Resolved:
        """Verifies everything against its digest."""
        architecture = manifest.host_architecture()
        raw = self._blob(self._top())
        if chosen := manifest.choose(raw, architecture, name=self.name):
            raw = self._blob(chosen)
        found = manifest.read_manifest(raw, name=self.name)
        config = self._blob(found.config)
        document = manifest.read_config(config, found, name=self.name, architecture=architecture)
        return Resolved(found, raw, document, config)

    async def fetch(self, resolved: Resolved, wanted: Collection[str]) -> str:
        """Nothing to bring."""
        return f"{self._directory}/blobs/sha256"

    def _top(self) -> str:
        try:
            entries = json.loads(Path(self._directory, "index.json").read_bytes())["manifests"]
            named = {e.get("annotations", {}).get(_REF_NAME, ""): e["digest"] for e in entries}
        except FileNotFoundError:
            raise NotFound(f"{self._directory} is not an OCI layout: it has no index.json") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Corrupt(f"{self._directory}/index.json is not the index of an OCI layout") from None
        if not self._ref and len(named) == 1:
            return str(*named.values())
        if self._ref not in named:
            there = ", ".join(sorted(n for n in named if n)) or "no name at all"
            raise NotFound(f"{self._directory} has no image {self._ref!r}; it has {there}")
        return str(named[self._ref])

    def _blob(self, digest: str) -> bytes:
        try:
            data = Path(self._directory, "blobs", "sha256", hex_of(digest)).read_bytes()
        except FileNotFoundError:
            raise Corrupt(f"{self.name} lacks the blob {digest}; write the layout again") from None
        return manifest.verified(data, digest)


class ArchiveSource:
    """An archive of `docker save` is first turned into a layout by skopeo."""

    def __init__(self, name: str, work_dir: str) -> None:
        self.name, self._work_dir = name, work_dir
        self._layout = LayoutSource(name, f"{work_dir}/layout", "")

    async def resolve(self) -> Resolved:
        """Copies everything: an archive can't be asked in small."""
        skopeo = Skopeo(self._work_dir, name=self.name)
        layout = f"{self._work_dir}/layout"
        await skopeo.copy(self.name, layout, blobs=f"{layout}/blobs")
        return await self._layout.resolve()

    async def fetch(self, resolved: Resolved, wanted: Collection[str]) -> str:
        """They are there."""
        return await self._layout.fetch(resolved, wanted)


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
