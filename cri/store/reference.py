# SPDX-License-Identifier: Apache-2.0
"""Names of images, by the rules that docker made and everybody follows. Pure.

Used by the pull and by the image store. `busybox` is `docker.io/library/busybox:latest`; a digest beats a
tag.
"""

import re
from typing import NamedTuple

from stage1.errors import BadRequest

_DEFAULT_REGISTRY, _DEFAULT_NAMESPACE, _DEFAULT_TAG = "docker.io", "library", "latest"
_OTHER_NAMES = {"index.docker.io": _DEFAULT_REGISTRY, "registry-1.docker.io": _DEFAULT_REGISTRY}
_LONGEST_NAME = 255
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST}(?:\.{_HOST})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_PORT = 65535
_ID = re.compile(r"[0-9a-f]{64}")


class Reference(NamedTuple):
    """A full name. Exactly one of `tag` and `digest` is set."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository: registry and path."""
        return f"{self.registry}/{self.path}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse(text: str) -> Reference:
    """The full reference for `text`. Raises BadRequest, which names the error."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise BadRequest(f"{_shown(text)}: {_shown(digest)} is not a digest; it should be sha256: and 64 hex digits")
    registry, path = _split_registry(rest)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise BadRequest(f"{_shown(text)}: {_shown(tag)} is not a tag; letters, digits, _ . and - are, at most 128")
    if not _is_registry(registry):
        raise BadRequest(f"{_shown(text)}: {_shown(registry)} is not a registry's host name")
    if registry == _DEFAULT_REGISTRY and path and "/" not in path:
        path = f"{_DEFAULT_NAMESPACE}/{path}"
    _check_path(text, rest, path=path)
    if len(registry) + 1 + len(path) > _LONGEST_NAME:
        raise BadRequest(f"{_shown(text)}: the name is longer than {_LONGEST_NAME} characters")
    return Reference(registry, path, "" if digest else tag or _DEFAULT_TAG, digest)


def registry_of(text: str) -> str:
    """The registry HOST[:PORT], with a path in it if `text` has one, whose credentials are meant. Raises BadRequest."""
    host, _, path = text.removeprefix("https://").removeprefix("http://").rstrip("/").partition("/")
    if not _is_registry(host) or (path and not _PATH.fullmatch(path)):
        raise BadRequest(f"{_shown(text)} is not a registry; give HOST, HOST:PORT or HOST/REPOSITORY")
    host = _OTHER_NAMES.get(host, host)
    return host if not path or (host == _DEFAULT_REGISTRY and path == "v1") else f"{host}/{path}"


def repository(text: str) -> str:
    """The full name of the repository that `text` is, with neither tag nor digest; empty when it is something else."""
    try:
        parsed = parse(text)
    except BadRequest:
        return ""
    return parsed.name if not parsed.digest and ":" not in text.rpartition("/")[2] else ""


def _split_registry(rest: str) -> tuple[str, str]:
    head, slash, tail = rest.partition("/")
    # What podman does: only a dot, a port or "localhost" makes the first part a host. With docker a capital does too.
    if slash and ("." in head or ":" in head or head == "localhost"):
        return _OTHER_NAMES.get(head, head), tail
    return _DEFAULT_REGISTRY, rest


def _is_registry(text: str) -> bool:
    port = re.search(r":([0-9]{1,5})$", text)
    return bool(_REGISTRY.fullmatch(text)) and (port is None or 1 <= int(port[1]) <= _MOST_PORT)


def _check_path(text: str, rest: str, *, path: str) -> None:
    if _ID.fullmatch(rest):
        raise BadRequest(f"{_shown(text)} is an image id and no name; ids can't be pulled")
    if not _PATH.fullmatch(path):
        hint = "; names are lowercase" if path.lower() != path and _PATH.fullmatch(path.lower()) else ""
        raise BadRequest(f"{_shown(text)} is not an image name{hint}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
