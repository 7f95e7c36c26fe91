# SPDX-License-Identifier: Apache-2.0
"""Reads an archive that `docker save` wrote, or podman: what runs in the confined process.

Its `manifest.json` names the config and the layers of each image, which are files or links to such.
"""

import errno
import hashlib
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Sequence
from typing import Any

from stage1.errors import NoSpace, NotFound
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import refusal

_CHUNK_BYTES = 1 << 20
_PART = "out/part"
_OCI = "application/vnd.oci.image"
_FAULTS = (
    tarfile.TarError, AttributeError, KeyError, TypeError, ValueError, EOFError, OSError, RecursionError,
    lzma.LZMAError, zlib.error,
)  # fmt: skip


def job(arguments: tuple[str, ...]) -> list[str]:
    """`arguments`: what the file is called, NAME:TAG or @NUMBER of an image in it or nothing, and how many bytes a
    document may have. The file is standard input. Each blob becomes a file of `out`, named by its digest in hex.

    Return the digests of the config and of the layers. Raises NotFound, Corrupt, OverLimit.
    """
    name, image, most = arguments
    try:
        with open(0, "rb", closefd=False) as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            entries = json.loads(_listed(archive, name, most_bytes=int(most)))
            entry = _chosen(entries, image, name=name)
            return [_kept(archive, str(path)) for path in (entry["Config"], *entry["Layers"])]
    except _FAULTS as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(f"the disk is full while {name} was unpacked; free some space") from None
        raise Corrupt(f"{name} is not an archive as docker save writes it; write it again") from None


def manifest_of(digests: Sequence[str], sizes: Sequence[int]) -> bytes:
    """The manifest of an image with this config and these layers."""
    kinds = [f"{_OCI}.config.v1+json", *[f"{_OCI}.layer.v1.tar"] * (len(digests) - 1)]
    blobs = [{"mediaType": k, "digest": d, "size": s} for k, d, s in zip(kinds, digests, sizes, strict=True)]
    document = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": blobs[0], "layers": blobs[1:]}
    return json.dumps(document).encode()


def _listed(archive: tarfile.TarFile, name: str, *, most_bytes: int) -> bytes:
    """The list of images."""
    if (source := archive.extractfile("manifest.json")) is None:
        raise ValueError(name)
    data = source.read(most_bytes + 1)
    if len(data) > most_bytes:
        what = f"the list of images in {name} has more than {most_bytes} bytes"
        raise refusal(what, key="manifest_kib", cap=most_bytes >> 10)
    return data


def _chosen(entries: Any, image: str, *, name: str) -> Any:
    """The entry that is asked for: the only one, or the one of that number or name."""
    names = [str(tag) for entry in entries for tag in entry.get("RepoTags") or ()]
    number = image.removeprefix("@")
    if image.startswith("@") and number.isdigit() and int(number) < len(entries):
        return entries[int(number)]
    same = [entry for entry in entries if image in (entry.get("RepoTags") or ())]
    if same or (not image and len(entries) == 1):
        return (same or entries)[0]
    raise NotFound(f"{name} has no image {image!r}; it has {', '.join(sorted(names))[:1000] or 'no name at all'}")


def _kept(archive: tarfile.TarFile, path: str) -> str:
    """Keep the file of that path; its digest."""
    digest = hashlib.sha256()
    source = archive.extractfile(path)
    if source is None:
        raise ValueError(path)
    with source, open(_PART, "wb") as target:
        while data := source.read(_CHUNK_BYTES):
            digest.update(data)
            target.write(data)
    os.rename(_PART, f"out/{digest.hexdigest()}")
    return f"sha256:{digest.hexdigest()}"
