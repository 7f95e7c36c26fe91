# SPDX-License-Identifier: Apache-2.0
"""Sources of images: a registry, an OCI layout on disk, or an archive that `docker save` wrote.

Called by the pull. A source first resolves its name (`named`), then selects the image (`resolve`) and fetches the blobs
(`fetch`). Local files are read with the rights of this process, so only commands may offer `oci:` and
`docker-archive:`; the CRI does not. The daemon never parses an untrusted document: it gets a few digests, and the
config serialised again (`Reader`).
"""

import asyncio
import errno
import json
import os
import stat
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from cri.config import Config
from cri.image import archive, manifest, origins
from cri.image.manifest import Manifest
from cri.image.origins import Auth
from cri.image.registry import Client, Watch
from cri.store.reference import Reference, parse
from cri.threads import run_concurrently, run_uncancellable
from stage1.errors import KernelError, NotFound
from stage1.linux import files as fs
from stage1.linux import libc
from stage1.pod import own_kernel
from stage1.rootfs import worker
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.layout import hex_of
from stage1.rootfs.limits import Limits, refusal
from stage1.rootfs.worker import Asker, ForkServer, Question, Worker

_BLOBS = "blobs/sha256"
_TIMEOUT_S, _CPU_S = 60.0, 120.0
_ARCHIVE_S = 3600.0


class Names(NamedTuple):
    """The names that an image shall have, each empty where it has none. `digest` is of a manifest or an index: who has
    an image by that name has this one.
    """

    tag: str = ""
    digest: str = ""


class Resolved(NamedTuple):
    """An image, verified down to its config."""

    manifest: Manifest
    manifest_bytes: bytes
    config: dict[str, Any]
    config_bytes: bytes
    sizes: dict[str, int]
    """Sizes in bytes of the layers' blobs that have one."""


BlobFiles = dict[str, "asyncio.Future[str]"]
"""The paths of layers' files by their blobs' digests, each set when the file is complete."""


class Top(NamedTuple):
    """A parsed document: an index, of which `chosen` is for this host, or a manifest."""

    chosen: str = ""
    manifest: Manifest | None = None
    sizes: dict[str, int] = {}  # noqa: RUF012 - never changed
    """Sizes in bytes of the layers' blobs that have one."""


class Reader:
    """Reads the documents of the image `name`, in one process, which the first question starts. Close it."""

    def __init__(self, name: str, limits: Limits, server: ForkServer | None = None) -> None:
        self.name, self._limits = name, limits
        self._architecture = manifest.host_architecture()
        question = Question("cri.image.manifest", (), f"the documents of {name}", _CPU_S)
        self._worker = Worker(question, Asker(limits, server=server))

    def start(self) -> None:
        """Start the process, if it was not. Blocks. Raises NotFound without util-linux, KernelError, Stopped."""
        self._worker.start()

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
        manifest.check_config(answer, of, name=self.name, architecture=self._architecture)
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
        title = f"the {what} of {self.name}"
        if len(data) > most_kib << 10:
            key = "config_kib" if kind == "config" else "manifest_kib"
            raise refusal(f"{title} has more than {most_kib << 10} bytes", key=key, cap=most_kib)
        arguments = (kind, self.name, self._architecture, json.dumps(self._limits), more)
        # Characters that are not ASCII come back six times as long.
        most_bytes = 65536 + 6 * (most_kib << 10)
        question = Question("cri.image.manifest", arguments, title, _TIMEOUT_S, answer_bytes=most_bytes)
        return await asyncio.to_thread(self._worker.ask, question, data)

    def _odd(self, what: str) -> Corrupt:
        return Corrupt(f"the {what} of {self.name} could not be parsed; push the image again")


class Source(Protocol):
    """One per pull."""

    name: str
    origin: str
    """The registry; empty for files of this machine."""

    def prepare(self) -> None:
        """Start now what `resolve` will need. Blocks."""
        ...

    async def named(self) -> Names:
        """Resolve the name as far as one document allows. Must be called once, before the others."""
        ...

    async def resolve(self) -> Resolved:
        """Which image it is now; brings no layers."""
        ...

    async def fetch(self, resolved: Resolved, files: BlobFiles, *, watch: Watch) -> None:
        """Bring the blobs of the layers in `files`, and set the path of each as soon as the file is whole."""
        ...

    def close(self) -> None:
        """End its processes. Blocks. Idempotent."""
        ...


LOCAL = ("oci:", "docker-archive:")
"""The prefixes of names of files of this machine."""


def names_of(reference: Reference, digest: str) -> Names:
    """Return the tag and the digest reference under which an image with this `digest` is stored."""
    return Names("" if reference.digest else str(reference), f"{reference.name}@{digest}")


def source_of(
    text: str, work_dir: str, *, config: Config, auth: Auth | None, server: ForkServer | None = None
) -> Source:
    """The source that `text` names, with processes that `server` forks. Blocks. Raises BadRequest."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "oci":
        return LayoutSource(text, *_split_layout(rest), limits=config.images.limits, server=server)
    if colon and kind == "docker-archive":
        return ArchiveSource(text, work_dir, limits=config.images.limits, server=server)
    return RegistrySource(parse(text), work_dir, config=config, auth=auth, server=server)


def _split_layout(rest: str) -> tuple[str, str]:
    """DIR[:REF]; a colon in DIR counts as such when there is a directory of that name."""
    if os.path.isdir(rest):
        return rest, ""
    directory, _, ref = rest.rpartition(":")
    return (directory, ref) if directory else (rest, "")


async def _resolved(
    raw: bytes, reader: Reader, *, limits: Limits, by_digest: Callable[[str], Awaitable[bytes]]
) -> tuple[bytes, Manifest, Top]:
    """The manifest that `raw` is or leads to, through indexes."""
    for _ in range(limits.index_depth + 1):
        top = await reader.top(raw)
        if top.manifest:
            return raw, top.manifest, top
        raw = manifest.verified(await by_digest(top.chosen), top.chosen, name=reader.name)
    what, cap = f"the image {reader.name} has indexes in indexes", limits.index_depth
    raise refusal(f"{what}, more than {cap} deep", key="index_depth", cap=cap)


async def _with_config(
    raw: bytes, chosen: Manifest, *, reader: Reader, config: bytes, sizes: dict[str, int]
) -> Resolved:
    """The image of the manifest `chosen`, whose bytes are `raw`; `config` is verified already."""
    annotations = await reader.kernel_annotations(raw)
    document = manifest.with_labels(await reader.config(config, chosen), annotations)
    return Resolved(chosen, raw, document, config, sizes)


class RegistrySource:
    """The registry is asked for the manifest, which is all for an image that is here; else for another one of an index,
    for the config, and for the layers that are missing.
    """

    def __init__(
        self, reference: Reference, work_dir: str, *, config: Config, auth: Auth | None, server: ForkServer | None
    ) -> None:
        self.name, self.origin = str(reference), reference.registry
        self._reference, self._work_dir, self._limits = reference, work_dir, config.images.limits
        self._reader = Reader(self.name, self._limits, server)
        asked = origins.question(reference, registries=config.registries, auth=auth)
        self._client = Client(asked, self.name, asker=Asker(self._limits, server=server), box=f"{work_dir}/registry")
        self._raw = b""

    def prepare(self) -> None:
        """See `Source`."""
        self._client.start()

    async def named(self) -> Names:
        """Follows the tag once; everything after goes by digest."""
        what = self._reference.digest or self._reference.tag
        # The process that will read the document starts meanwhile.
        document = self._client.document("manifest", what, most_kib=self._limits.manifest_kib)
        self._raw = await run_concurrently(document, self._reader.start)
        digest = self._reference.digest or manifest.digest_of(self._raw)
        manifest.verified(self._raw, digest, name=self.name)
        return names_of(self._reference, digest)

    async def resolve(self) -> Resolved:
        """See `Source`."""
        raw, chosen, checked = await _resolved(self._raw, self._reader, limits=self._limits, by_digest=self._by_digest)
        config = await self._client.document("blob", chosen.config, most_kib=self._limits.config_kib)
        verified = manifest.verified(config, chosen.config, name=self.name)
        resolved = await _with_config(raw, chosen, reader=self._reader, config=verified, sizes=checked.sizes)
        await run_uncancellable(self._reader.close)
        return resolved

    async def _by_digest(self, digest: str) -> bytes:
        return await self._client.document("manifest", digest, most_kib=self._limits.manifest_kib)

    async def fetch(self, resolved: Resolved, files: BlobFiles, *, watch: Watch) -> None:
        """See `Source`."""
        place, sizes = f"{self._work_dir}/{_BLOBS}", {digest: resolved.sizes.get(digest, 0) for digest in files}
        await run_uncancellable(fs.make_dirs, place, 0o700)

        def arrived(digest: str, path: str) -> None:
            if not files[digest].done():
                files[digest].set_result(path)

        await self._client.bring(sizes, place, arrived=arrived, watch=watch)

    def close(self) -> None:
        """See `Source`."""
        self._reader.close()
        self._client.close()


class LayoutSource:
    """An OCI layout is read where it lies."""

    def __init__(self, name: str, directory: str, ref: str, *, limits: Limits, server: ForkServer | None) -> None:
        self.name, self.origin = name, ""
        self._directory, self._ref, self._limits = directory, ref, limits
        self._reader = Reader(name, limits, server)

    def prepare(self) -> None:
        """See `Source`."""
        self._reader.start()

    async def named(self) -> Names:
        """A local image has no name but its id."""
        return Names()

    async def resolve(self) -> Resolved:
        """Verifies everything against its digest."""
        raw = self._blob(await self._top())
        raw, chosen, checked = await _resolved(raw, self._reader, limits=self._limits, by_digest=self._by_digest)
        config = self._blob(chosen.config)
        resolved = await _with_config(raw, chosen, reader=self._reader, config=config, sizes=checked.sizes)
        await run_uncancellable(self._reader.close)
        return resolved

    def close(self) -> None:
        """See `Source`."""
        self._reader.close()

    async def _by_digest(self, digest: str) -> bytes:
        return self._blob(digest)

    async def fetch(self, resolved: Resolved, files: BlobFiles, *, watch: Watch) -> None:
        """Set the paths of the blobs, which are in the directory already."""
        for digest, file in files.items():
            file.set_result(f"{self._directory}/{_BLOBS}/{hex_of(digest)}")

    async def _top(self) -> str:
        try:
            named = await self._reader.names(self._read("index.json"))
        except FileNotFoundError:
            raise NotFound(f"{self._directory} is not an OCI layout: it has no index.json") from None
        if not self._ref and len(named) == 1:
            return str(*named.values())
        if self._ref not in named:
            there = ", ".join(sorted(n for n in named if n)) or "no name at all"
            raise NotFound(f"{self._directory} has no image {self._ref!r}; it has {there[:1000]}")
        return named[self._ref]

    def _blob(self, digest: str) -> bytes:
        try:
            data = self._read(f"blobs/sha256/{hex_of(digest)}")
        except FileNotFoundError:
            raise Corrupt(f"{self.name} lacks the blob {digest}; write the layout again") from None
        return manifest.verified(data, digest, name=self.name)

    def _read(self, path: str) -> bytes:
        """A document, or a little more than one may have, which its reader refuses. Raises FileNotFoundError,
        NotFound when there is no directory but something else, KernelError.
        """
        most = max(self._limits.manifest_kib, self._limits.config_kib) << 10
        try:
            with libc.Guard("open", f"{self._directory}/{path}"):
                fd = os.open(f"{self._directory}/{path}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except KernelError as error:
            if error.errno != errno.ENOTDIR:
                raise
            what = f"{self._directory} is not a directory, and so not an OCI layout"
            raise NotFound(f"{what}; give oci:DIR or oci:DIR:REF") from None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Corrupt(f"{self._directory}/{path} is not a regular file; write the layout again")
            data = file.read(most + 1)
        if len(data) > most:
            raise refusal(f"{self._directory}/{path} has more than {most} bytes", key="manifest_kib", cap=most >> 10)
        return data


class ArchiveSource(LayoutSource):
    """An archive of `docker save` is first turned into a layout by a confined process."""

    def __init__(self, name: str, work_dir: str, *, limits: Limits, server: ForkServer | None) -> None:
        super().__init__(name, f"{work_dir}/layout", "", limits=limits, server=server)
        self._box, self._server = f"{work_dir}/archive", server
        _, _, rest = name.partition(":")
        path, _, self._image = rest.partition(":")
        self._path = os.path.abspath(path)

    async def _top(self) -> str:
        """Unpack everything: an archive can't be asked in small."""
        return await run_uncancellable(self._unpacked)

    def _unpacked(self) -> str:
        place = f"{self._directory}/{_BLOBS}"
        fs.make_dirs(place, 0o700)
        most = self._limits.image_mib << 20
        try:
            with libc.Guard("open", self._path):
                fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"there is no file {self._path}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise NotFound(f"{self._path} is not a regular file, and so not an archive of docker save")
            worker.make_box(self._box, uid=self._limits.uid)
            arguments = (self._path, self._image, str(self._limits.manifest_kib << 10))
            question = Question(archive.__name__, arguments, self.name, _ARCHIVE_S, self._box, most, stdin=fd)
            made = worker.ask(question, Asker(self._limits, server=self._server))
        finally:
            os.close(fd)
        if not (
            isinstance(made, list) and 1 < len(made) <= self._limits.layers + 1 and all(map(manifest.is_digest, made))
        ):
            raise Corrupt(f"{self._path} could not be read; write it again")
        for digest in dict.fromkeys(made):
            worker.adopt(self._box, hex_of(digest), target=f"{place}/{hex_of(digest)}", most_bytes=most)
        document = archive.manifest_of(made, [os.path.getsize(f"{place}/{hex_of(digest)}") for digest in made])
        digest = manifest.digest_of(document)
        fs.write_atomic(f"{place}/{hex_of(digest)}", document)
        return digest
