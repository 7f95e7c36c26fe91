# SPDX-License-Identifier: Apache-2.0
"""Parsing of manifests, indexes and configs of images. Pure.

`job` runs in a confined process without the network or a credential (`source.Reader`); the daemon validates the values
that come back once more. Knows the OCI image-spec and Docker's schema 2, which differ in names only. Everything here
comes from a registry and is validated.
"""

import hashlib
import json
import os
import re
from typing import Any, NamedTuple

from stage1.errors import BadRequest, Unsupported
from stage1.pod import own_kernel
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, refusal

_INDEXES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_CONFIGS = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
_LAYER = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar([+.](gzip|zstd))?"
    r"|docker\.image\.rootfs\.(foreign\.)?diff\.tar([+.](gzip|zstd))?)"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
_FIELDS: dict[str, type[Any]] = {
    **dict.fromkeys(("User", "WorkingDir", "StopSignal"), str),
    **dict.fromkeys(("Env", "Cmd", "Entrypoint"), list),
    "Volumes": dict,
}
_MOST_BYTES = 1 << 60
_KERNEL = (own_kernel.OURS, own_kernel.URUNC)
_MOST_ANNOTATIONS, _MOST_TEXT = 32, own_kernel.MOST_TEXT
_VARIANTS = {"amd64": ("", "v1"), "arm64": ("", "v8")}


_REF_NAME = "org.opencontainers.image.ref.name"
_MOST_NAMES = 10_000


class Manifest(NamedTuple):
    """One image for one platform: the digest of its config, and the layers' blobs, lowest first."""

    config: str
    layers: tuple[str, ...]


def host_architecture() -> str:
    """This machine, in the words of Go and OCI."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def digest_of(data: bytes) -> str:
    """sha256:..."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: Any) -> bool:
    """Whether it is a sha256 digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def verified(data: bytes, digest: str, *, name: str) -> bytes:
    """`data`, if that is what `digest` names, of the image `name`. Raises Corrupt."""
    if digest_of(data) != digest:
        what = f"digest mismatch: {digest} has the content of {digest_of(data)}"
        raise Corrupt(f"can't pull {name}: {what}; pull again, or push again")
    return data


def _document(data: bytes, what: str, *, limits: Limits = Limits()) -> dict[str, Any]:  # noqa: B008 - a constant
    try:
        document = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Corrupt(f"{what} is not a JSON object; push the image again")
    cap = limits.document_values
    if _count(document, cap) > cap:
        raise refusal(f"{what} has more than {cap} values", key="document_values", cap=cap)
    return document


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _count(document: Any, cap: int) -> int:
    """The number of values in it, or more than `cap`."""
    count, todo = 0, [document]
    while todo and count <= cap:
        value = todo.pop()
        count += 1
        if isinstance(value, dict | list):
            todo.extend(value.values() if isinstance(value, dict) else value)
    return count


def _digest(descriptor: Any, what: str) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise Corrupt(f"{what} has no sha256 digest but {digest!r}; push the image again")
    return digest


def choose(data: bytes, architecture: str, *, name: str, limits: Limits = Limits()) -> str | None:  # noqa: B008
    """The digest of the manifest for linux on `architecture` if `data` is an index, None if it is a manifest.

    Raises BadRequest when the index has nothing for this platform.
    """
    document = _document(data, f"the manifest of {name}", limits=limits)
    if str(document.get("mediaType")) not in _INDEXES and "manifests" not in document:
        return None
    entries = document.get("manifests")
    objects = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    for variant in _VARIANTS.get(architecture, ("",)):
        for entry in objects:
            platform = _platform(entry)
            if platform[:2] == ("linux", architecture) and platform[2] in (variant, ""):
                return _digest(entry, f"the index of {name}")
    there = ", ".join(sorted({"/".join(_platform(e)[:2]) for e in objects} - {"unknown/unknown"})) or "nothing"
    raise BadRequest(f"the image {name} is for {there} and this host is linux/{architecture}; build it for this host")


def _platform(entry: dict[str, Any]) -> tuple[str, str, str]:
    platform = entry.get("platform")
    fields = platform if isinstance(platform, dict) else {}
    values = [fields.get(key) for key in ("os", "architecture", "variant")]
    system, architecture, variant = (word if isinstance(word, str) else "" for word in values)
    return system or "unknown", architecture or "unknown", variant


def read_manifest(data: bytes, *, name: str, limits: Limits = Limits()) -> Manifest:  # noqa: B008 - a constant
    """The manifest in `data`. Raises Unsupported for what is no container image, Corrupt, OverLimit."""
    document = _document(data, f"the manifest of {name}", limits=limits)
    if document.get("schemaVersion") != 2 or "config" not in document:
        raise Unsupported(f"{name} has a manifest that is neither OCI nor Docker schema 2; push it with a newer tool")
    config, layers = document["config"], document.get("layers")
    kind = str(config.get("mediaType")) if isinstance(config, dict) else "None"
    if kind not in _CONFIGS:
        raise Unsupported(f"{name} is not a container image: its config is of the type {kind[:100]}")
    if not isinstance(layers, list) or not layers:
        raise Unsupported(f"the image {name} has no layers; clearpod needs at least one")
    if len(layers) > limits.layers:
        raise refusal(f"the image {name} has {len(layers)} layers", key="layers", cap=limits.layers)
    for layer in layers:
        if not isinstance(layer, dict) or not _LAYER.fullmatch(str(layer.get("mediaType"))):
            kind = str(layer.get("mediaType")) if isinstance(layer, dict) else "None"
            raise Unsupported(f"the image {name} has a layer of the type {kind}, which clearpod can't unpack")
    return Manifest(_digest(config, f"the config of {name}"), tuple(_digest(x, f"a layer of {name}") for x in layers))


def sizes(data: bytes) -> dict[str, int]:
    """The sizes in bytes of the layers' blobs that have one, in a manifest that `read_manifest` accepts."""
    layers = _document(data, "the manifest")["layers"]
    return {x["digest"]: x["size"] for x in layers if type(x.get("size")) is int and 0 < x["size"] < _MOST_BYTES}


def kernel_annotations(data: bytes) -> dict[str, str]:
    """The annotations about a kernel of its own in a manifest that `read_manifest` takes."""
    return of_kernel(_document(data, "the manifest").get("annotations"))


def of_kernel(annotations: Any) -> dict[str, str]:
    """Return the annotations of an image that are about a kernel: only texts, bounded in length and number."""
    pairs = annotations.items() if isinstance(annotations, dict) else ()
    ours = [(k, v) for k, v in pairs if str(k).startswith(_KERNEL) and isinstance(v, str) and len(v) <= _MOST_TEXT]
    return {str(key): value for key, value in ours[:_MOST_ANNOTATIONS]}


def with_labels(config: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    """The config with the manifest's annotations about the image's kernel as labels; its own labels win."""
    inner = config.get("config") or {}
    labels = inner.get("Labels")
    merged = {**annotations, **(labels if isinstance(labels, dict) else {})}
    return {**config, "config": {**inner, "Labels": merged}} if annotations else config


def with_file(config: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    """The config with the values of urunc's file in the image as labels, where it has no such label."""
    own = (config.get("config") or {}).get("Labels")
    has_own = isinstance(own, dict) and any(str(key).startswith(own_kernel.URUNC) for key in own)
    return config if has_own else with_labels(config, labels)


def read_config(
    data: bytes,
    manifest: Manifest,
    *,
    name: str,
    architecture: str,
    limits: Limits = Limits(),  # noqa: B008
) -> dict[str, Any]:
    """The image's config, checked against its manifest and this host. Raises BadRequest (platform),
    Corrupt, OverLimit.
    """
    document = _document(data, f"the config of {name}", limits=limits)
    check_config(document, manifest, name=name, architecture=architecture)
    return document


def check_config(document: dict[str, Any], manifest: Manifest, *, name: str, architecture: str) -> None:
    """Whether it fits its manifest and this host, and what is read of it is what it should be.

    Raises BadRequest (platform), Corrupt.
    """
    platform = f"{document.get('os') or 'linux'}/{document.get('architecture') or architecture}"
    if platform != f"linux/{architecture}":
        raise BadRequest(f"the image {name} is for {platform} and this host is linux/{architecture}; "
                         "build it for this host")  # fmt: skip
    _check_fields(document, name)
    if len(diff_ids(document)) != len(manifest.layers):
        counts = f"{len(manifest.layers)} layers and {len(diff_ids(document))} diff ids"
        raise Corrupt(f"the image {name} has {counts}; push it again")


def _check_fields(document: dict[str, Any], name: str) -> None:
    """Check the types of what the store and CreateContainer read of a config. Raises Corrupt."""
    rootfs: Any = document.get("rootfs") or {}
    inner: Any = document.get("config") or {}
    for what, value in (("rootfs", rootfs), ("config", inner)):
        if not isinstance(value, dict):
            raise Corrupt(f"the image {name} has a config whose {what} is not an object; push it again")
    if not isinstance(rootfs.get("diff_ids") or [], list):
        raise Corrupt(f"the image {name} has a config whose diff_ids are not a list; push it again")
    for key, kind in _FIELDS.items():
        value = inner.get(key)
        texts = value if isinstance(value, list) else []
        if value is not None and (not isinstance(value, kind) or not all(isinstance(word, str) for word in texts)):
            raise Corrupt(f"the image {name} has a config whose {key} is {str(value)[:40]!r}; push it again")


def diff_ids(config: dict[str, Any]) -> tuple[str, ...]:
    """Digests of the unpacked layers, lowest first. Raises Corrupt."""
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or ()
    for digest in diff_ids:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise Corrupt(f"an image's config has the diff id {digest!r}, which is not a sha256 digest")
    return tuple(diff_ids)


def job(arguments: tuple[str, ...], data: bytes) -> Any:
    """`arguments`: top, config or names; the image's name, the architecture, the limits, and a config's manifest."""
    kind, name, architecture, given, more = arguments
    limits = Limits(*json.loads(given))
    if kind == "names":
        return _names(data, name)
    if kind == "annotations":
        return kernel_annotations(data)
    if kind == "config":
        config, layers = json.loads(more)
        of = Manifest(config, tuple(layers))
        return read_config(data, of, name=name, architecture=architecture, limits=limits)
    if chosen := choose(data, architecture, name=name, limits=limits):
        return {"chosen": chosen}
    parsed = read_manifest(data, name=name, limits=limits)
    return {"config": parsed.config, "layers": parsed.layers, "sizes": sizes(data)}


def _names(data: bytes, name: str) -> dict[str, str]:
    try:
        entries = json.loads(data)["manifests"]
        digests = {str(e.get("annotations", {}).get(_REF_NAME, "")): str(e["digest"]) for e in entries[:_MOST_NAMES]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Corrupt(f"the index of {name} is not the index of an OCI layout") from None
    return digests
