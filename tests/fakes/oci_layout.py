# SPDX-License-Identifier: Apache-2.0
"""Builds small images in memory: layer tars with every oddity that real ones have, and OCI layouts on disk.

Used by the tests of rootfs, of the image store and of the registry. It must not use clearpod's own code,
which it is there to check.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

OCI = "application/vnd.oci.image"
HOST_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "unknown")
OTHER_ARCH = "arm64" if HOST_ARCH == "amd64" else "amd64"


class Entry(NamedTuple):
    """One entry of a tar. `kind`: f file, d directory, l hard link, s symbolic link, c character device,
    p fifo.
    """

    name: str
    kind: str = "f"
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    mtime: int = 1000


KINDS = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.LNKTYPE,
    "s": tarfile.SYMTYPE,
    "c": tarfile.CHRTYPE,
    "p": tarfile.FIFOTYPE,
}
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


def file(name: str, data: bytes = b"x", mode: int = 0o644, **more: Any) -> Entry:
    """A regular file."""
    return Entry(name, "f", data, mode, **more)


def directory(name: str, mode: int = 0o755, **more: Any) -> Entry:
    """A directory with an entry of its own."""
    return Entry(name, "d", b"", mode, **more)


def tar(entries: list[Entry]) -> bytes:
    """A PAX tar of `entries`, in their order, parents not added."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.mtime = KINDS[entry.kind], entry.mode, entry.mtime
            info.uid, info.gid, info.linkname, info.size = entry.uid, entry.gid, entry.link, len(entry.data)
            info.pax_headers = {f"SCHILY.xattr.{k}": v.decode("utf-8", "surrogateescape") for k, v in entry.xattrs}
            archive.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


def digest(data: bytes) -> str:
    """The sha256 digest as OCI writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zstd(data: bytes) -> bytes:
    """`data` compressed by zstd."""
    return subprocess.run(["zstd", "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Layer(NamedTuple):
    """A layer: the tar, and how it is stored."""

    tar: bytes
    compression: str = "gzip"

    def blob(self) -> bytes:
        """The bytes in the registry."""
        return {"gzip": lambda b: gzip.compress(b, mtime=0), "zstd": zstd, "": bytes}[self.compression](self.tar)

    def media_type(self) -> str:
        """The media type in the manifest."""
        return f"{OCI}.layer.v1.tar" + (f"+{self.compression}" if self.compression else "")


class Layout:
    """An OCI layout at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: list[dict[str, Any]] = []
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._write()

    def _write(self) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._index}))

    def put(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Store a blob; returns its descriptor."""
        name = digest(data)
        (self.path / "blobs" / "sha256" / name.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": name, "size": len(data)}

    def tag(self, ref: str, descriptor: dict[str, Any]) -> str:
        """Name a manifest or index; returns the `oci:` reference."""
        named = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": ref}}
        self._index.append(named)
        self._write()
        return f"oci:{self.path}:{ref}"

    def image(
        self,
        layers: list[Layer],
        *,
        config: dict[str, Any] | None = None,
        arch: str = HOST_ARCH,
        diff_ids: list[str] | None = None,
    ) -> dict[str, Any]:
        """Store an image; returns its manifest's descriptor. `diff_ids` other than the true ones are lies."""
        document = {
            "architecture": arch,
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": config or {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(layer.tar) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.put(json.dumps(document).encode(), f"{OCI}.config.v1+json"),
            "layers": [self.put(layer.blob(), layer.media_type()) for layer in layers],
        }
        descriptor = self.put(json.dumps(manifest).encode(), manifest["mediaType"])
        return {**descriptor, "platform": {"architecture": arch, "os": "linux"}}

    def index(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """Store a multi-architecture index; returns its descriptor."""
        media_type = f"{OCI}.index.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
        return self.put(json.dumps(document).encode(), media_type)
