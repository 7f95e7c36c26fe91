# SPDX-License-Identifier: Apache-2.0
"""An OCI image layout written from Python values, reproducibly: image-spec 1.1, image-layout.md.

Used for the sample image and by tests that need images of every shape.
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class File(NamedTuple):
    """One entry of a layer: `data` of a regular file, or `link` to where a symbolic (`hard`: a hard) link points.

    A name that ends in a slash is a directory. `xattrs` are PAX SCHILY.xattr.* values.
    """

    name: str
    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    hard: bool = False
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, str] = {}


def tar(files: Sequence[File]) -> bytes:
    """A layer, uncompressed; times are zero."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            info = _info(file)
            archive.addfile(info, io.BytesIO(file.data) if info.isreg() else None)
    return sink.getvalue()


def _info(file: File) -> tarfile.TarInfo:
    info = tarfile.TarInfo(file.name.rstrip("/"))
    info.mode, info.uid, info.gid = file.mode, file.uid, file.gid
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in file.xattrs.items()}
    if file.name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, file.mode | 0o111
    elif file.link:
        info.type, info.linkname = (tarfile.LNKTYPE if file.hard else tarfile.SYMTYPE), file.link
    else:
        info.size = len(file.data)
    return info


class Layout:
    """A layout in `directory`; `add` puts images into it."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._manifests = directory, []  # type: Path, list[dict[str, Any]]
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')

    def add(
        self,
        ref: str,
        layers: Sequence[bytes],
        config: Mapping[str, Any],
        *,
        compression: str = "gzip",
        arch: str = "amd64",
    ) -> str:
        """Add an image under the name `ref`; returns its manifest's digest. `compression`: gzip, zstd, or empty."""
        manifest = self.manifest(layers, config, compression=compression, arch=arch)
        self._manifests.append(manifest | {"annotations": {"org.opencontainers.image.ref.name": ref}})
        self._write_index()
        return str(manifest["digest"])

    def manifest(
        self, layers: Sequence[bytes], config: Mapping[str, Any], *, compression: str = "gzip", arch: str = "amd64"
    ) -> dict[str, Any]:
        """Write an image's blobs and return the descriptor of its manifest, named nowhere yet."""
        document = {
            "architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }  # fmt: skip
        suffix = f"+{compression}" if compression else ""
        body = {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": self._blob(CONFIG, _json(document)),
            "layers": [self._blob(LAYER + suffix, compress(layer, compression)) for layer in layers],
        }  # fmt: skip
        return self._blob(MANIFEST, _json(body)) | {"platform": {"architecture": arch, "os": "linux"}}

    def add_index(self, ref: str, manifests: Sequence[dict[str, Any]]) -> str:
        """Add a multi-architecture image of descriptors that `manifest` returned; returns the index's digest."""
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        index = self._blob(INDEX, _json(body))
        self._manifests.append(index | {"annotations": {"org.opencontainers.image.ref.name": ref}})
        self._write_index()
        return str(index["digest"])

    def _blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        name = digest(data)
        (self._directory / "blobs" / "sha256" / name.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": name, "size": len(data)}

    def _write_index(self) -> None:
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._manifests}
        (self._directory / "index.json").write_bytes(_json(body))


def compress(data: bytes, how: str) -> bytes:
    """gzip, zstd (the program), or as it is."""
    if how == "gzip":
        return gzip.compress(data, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout
    return data


def digest(data: bytes) -> str:
    """sha256:…"""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
