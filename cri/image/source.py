# SPDX-License-Identifier: Apache-2.0
"""Sources of images: a registry, an OCI layout on disk, or an archive that `docker save` wrote.

Called by the pull. A source first resolves its name (`named`), then selects the image (`resolve`) and fetches the blobs
(`fetch`). Local files are read with the rights of this process, so only `clearpod run` may offer `oci:` and
`docker-archive:`; the CRI does not.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple, Protocol

from cri.config import Config
from cri.image import manifest, registries
from cri.image.direct import Direct
from cri.image.documents import Reader, Top
from cri.image.manifest import Manifest
from cri.image.progress import Download, watched
from cri.image.registries import Auth
from cri.image.skopeo import Skopeo
from cri.store.reference import Reference, parse
from cri.threads import await_end, run_uncancellable
from stage1.errors import KernelError, NotFound
from stage1.linux import files as fs
from stage1.linux import libc
from stage1.linux.supervise import never
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.forking import ForkServer
from stage1.rootfs.layout import hex_of
from stage1.rootfs.limits import Limits, refusal

_BLOBS = "blobs/sha256"
POLL_S = 0.02
"""Delay between two listings of the directory to which skopeo downloads."""


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


class Source(Protocol):
    """One per pull."""

    name: str
    origin: str
    """The registry; empty for files of this machine."""
    yields: Callable[[], bool]
    """Asked while the registry is slow; true ends the pull."""

    def prepare(self) -> None:
        """Start now what `resolve` will need. Blocks."""
        ...

    async def named(self) -> Names:
        """Resolve the name as far as one document allows. Must be called once, before the others."""
        ...

    async def resolve(self) -> Resolved:
        """Which image it is now; brings no layers."""
        ...

    async def fetch(self, resolved: Resolved, files: "BlobFiles") -> None:
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
    """The source that `text` names, whose documents are read by who `server` forks. Raises BadRequest."""
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
        raw = manifest.verified(await by_digest(top.chosen), top.chosen)
    what, cap = "an image has indexes in indexes", limits.index_depth
    raise refusal(f"{what}, more than {cap} deep", key="index_depth", cap=cap)


async def _with_config(
    raw: bytes, chosen: Manifest, *, reader: Reader, config: bytes, sizes: dict[str, int]
) -> Resolved:
    """The image of the manifest `chosen`, whose bytes are `raw`; `config` is verified already."""
    annotations = await reader.kernel_annotations(raw)
    document = manifest.with_labels(await reader.config(config, chosen), annotations)
    return Resolved(chosen, raw, document, config, sizes)


class RegistrySource:
    """The registry is asked for the manifest, which is all for an image that is here; else once or twice more in small
    (`Direct`, or skopeo where that has no answer), then by skopeo for the layers that are missing.
    """

    def __init__(
        self,
        reference: Reference,
        work_dir: str,
        *,
        config: Config,
        auth: Auth | None,
        server: ForkServer | None,
    ) -> None:
        self.name, self.origin, self.yields = str(reference), reference.registry, never
        self._reference, self._work_dir, self._limits = reference, work_dir, config.images.limits
        known = config.registries
        _write(f"{work_dir}/registries.conf", registries.registries_conf(known, reference))
        _write(f"{work_dir}/auth.json", registries.authfile(auth, reference, registries=known))
        self._skopeo = Skopeo(work_dir, name=self.name, limits=self._limits)
        self._reader = Reader(self.name, self._limits, server)
        fs.make_dirs(f"{work_dir}/fetch1", 0o700)
        box = f"{work_dir}/fetch1/direct"
        self._direct = Direct(reference, config=config, auth=auth, server=server, box=box)
        self._raw, self._fetches = b"", 0

    def prepare(self) -> None:
        """See `Source`."""
        self._direct.start()
        self._reader.start()

    async def named(self) -> Names:
        """Follows the tag once; everything after goes by digest."""
        self._raw = await self._manifest(self._reference.digest or self._reference.tag, f"docker://{self._reference}")
        digest = self._reference.digest or manifest.digest_of(self._raw)
        manifest.verified(self._raw, digest)
        return names_of(self._reference, digest)

    async def resolve(self) -> Resolved:
        """See `Source`."""
        raw, chosen, checked = await _resolved(self._raw, self._reader, limits=self._limits, by_digest=self._by_digest)
        self._exact = f"docker://{self._reference.name}@{manifest.digest_of(raw)}"
        config = await self._config(chosen.config)
        resolved = await _with_config(raw, chosen, reader=self._reader, config=config, sizes=checked.sizes)
        await run_uncancellable(self._reader.close)
        return resolved

    def close(self) -> None:
        """See `Source`."""
        self._reader.close()
        self._direct.close()

    async def _by_digest(self, digest: str) -> bytes:
        return await self._manifest(digest, f"docker://{self._reference.name}@{digest}")

    async def _manifest(self, reference: str, source: str) -> bytes:
        return await self._direct.manifest(reference) or await self._skopeo.inspect(source)

    async def _config(self, digest: str) -> bytes:
        data = await self._direct.config(digest)
        if not data or manifest.digest_of(data) != digest:
            data = await self._skopeo.inspect(self._exact, config=True)
        return manifest.verified(data, digest)

    async def fetch(self, resolved: Resolved, files: BlobFiles) -> None:
        """Without skopeo the first time, as far as that can be; skopeo brings what is missing then."""
        self._fetches += 1
        place = f"{self._work_dir}/fetch{self._fetches}"
        await run_uncancellable(fs.make_dirs, f"{place}/{_BLOBS}", 0o700)
        sizes = {digest: resolved.sizes[digest] for digest in files if digest in resolved.sizes}
        total = sum(sizes.values()) if len(sizes) == len(files) else 0
        watching = asyncio.ensure_future(_watch(lambda: self._arrived(place, sizes), place, files=files))
        bringing = self._brought(resolved, place, files=files, sizes=sizes if total else {})
        expected = Download(self.name, place, total, most_mib=self._limits.image_mib, yields=self.yields)
        try:
            await watched(bringing, expected)
        finally:
            watching.cancel()
            try:
                await await_end(watching)
            finally:
                await run_uncancellable(self._direct.close)

    async def _brought(self, resolved: Resolved, place: str, *, files: BlobFiles, sizes: dict[str, int]) -> None:
        """Bring the blobs, with `sizes` without skopeo as far as that can be."""
        if sizes and self._direct.brings():
            await self._direct.bring(sizes)
            _set_paths(place, files, names=await run_uncancellable(self._arrived, place, sizes))
        if not all(file.done() for file in files.values()):
            await run_uncancellable(self._direct.discard)  # else it would count as part of what skopeo brings
            await self._copied(resolved, place, files=files)
            _set_paths(place, files, names=await run_uncancellable(self._arrived, place, sizes))

    def _arrived(self, place: str, sizes: dict[str, int]) -> set[str]:
        """The names of blobs that are there. Blocks."""
        self._direct.adopt(sizes, directory=f"{place}/{_BLOBS}")
        return set(os.listdir(f"{place}/{_BLOBS}"))

    async def _copied(self, resolved: Resolved, place: str, *, files: BlobFiles) -> None:
        """skopeo skips what is there by name, so an empty file stands for each blob that is not needed. It gives a blob
        its name when that is whole.
        """
        for digest in set(resolved.manifest.layers) - set(files):
            await run_uncancellable(_write, f"{place}/{_BLOBS}/{hex_of(digest)}", "")
        await self._skopeo.copy(self._exact, f"{place}/layout", blobs=f"{place}/blobs")


class LayoutSource:
    """An OCI layout is read where it lies."""

    def __init__(self, name: str, directory: str, ref: str, *, limits: Limits, server: ForkServer | None) -> None:
        self.name, self.origin, self.yields = name, "", never
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

    async def fetch(self, resolved: Resolved, files: BlobFiles) -> None:
        """Set the paths of the blobs, which are in the directory already."""
        _set_paths(self._directory, files, names={hex_of(digest) for digest in files})

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
        return manifest.verified(data, digest)

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


class ArchiveSource:
    """An archive of `docker save` is first turned into a layout by skopeo."""

    def __init__(self, name: str, work_dir: str, *, limits: Limits, server: ForkServer | None) -> None:
        self.name, self.origin, self.yields = name, "", never
        self._work_dir, self._limits = work_dir, limits
        self._layout = LayoutSource(name, f"{work_dir}/layout", "", limits=limits, server=server)

    def prepare(self) -> None:
        """See `Source`."""
        self._layout.prepare()

    async def named(self) -> Names:
        """A local image has no name but its id."""
        return Names()

    async def resolve(self) -> Resolved:
        """Copies everything: an archive can't be asked in small."""
        skopeo = Skopeo(self._work_dir, name=self.name, limits=self._limits, archive=_file_of(self.name))
        layout = f"{self._work_dir}/layout"
        await skopeo.copy(self.name, layout, blobs=f"{layout}/blobs")
        return await self._layout.resolve()

    async def fetch(self, resolved: Resolved, files: BlobFiles) -> None:
        """Set the paths of the blobs, which `resolve` has unpacked already."""
        await self._layout.fetch(resolved, files)

    def close(self) -> None:
        """See `Source`."""
        self._layout.close()


async def _watch(arrived: Callable[[], set[str]], place: str, *, files: BlobFiles) -> None:
    """Set the paths of blobs as they appear below `place`, until this is cancelled."""
    while True:
        await asyncio.sleep(POLL_S)
        _set_paths(place, files, names=await run_uncancellable(arrived))


def _set_paths(place: str, files: BlobFiles, *, names: Collection[str]) -> None:
    """Set the paths of the blobs whose files, of these names, are there."""
    for digest, file in files.items():
        if hex_of(digest) in names and not file.done():
            file.set_result(f"{place}/{_BLOBS}/{hex_of(digest)}")


def _file_of(name: str) -> str:
    """The file of docker-archive:FILE[:REF]; skopeo splits at the first colon too."""
    return os.path.abspath(name.partition(":")[2].partition(":")[0])


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
