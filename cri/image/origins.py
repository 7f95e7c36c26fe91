# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from, as whom, and by which proxies: from the daemon's configuration and the request, as one
document for the process that asks (`client`).

Files of the host are read here, as root, so that process needs neither them nor their rights: authorities and client
certificates in `certs.d`. Neither other files nor another user's credentials have an influence.
"""

import base64
import contextlib
import functools
import ipaddress
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from cri.config_tables import Registry
from cri.store.reference import Reference
from stage1.errors import BadRequest, Unsupported

CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
"""Directories with one of each registry's, HOST or HOST:PORT: *.crt of authorities, NAME.cert and NAME.key to show."""
_MOST_BYTES = 4 << 20
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}
PROXIES = ("https_proxy", "http_proxy", "no_proxy")
REASONS = (
    "connection refused", "no such host", "no route to it", "no answer in time", "the connection ended early",
    "the certificate is of an unknown authority", "the certificate has expired", "the certificate is for another host",
    "it speaks no TLS", "it is no valid TLS", "a client certificate that can't be used",
    "it asks for a client certificate",
    "an answer that is no HTTP", "a compressed answer", "redirects without an end", "a token that is none",
    "a part that was not asked for", "credentials of a kind that is not known", "only http:// is supported",
)  # fmt: skip
"""What errors say of a registry besides its status and host: nothing that it sends is repeated."""


class Auth(NamedTuple):
    """Credentials of one pull, as CRI's AuthConfig has them."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""


def question(reference: Reference, *, registries: Sequence[Registry], auth: Auth | None) -> dict[str, Any]:
    """What the process is to know. Its `places` are asked in this order: mirrors, which see no credentials, and the
    registry itself. Blocks. Raises BadRequest (of credentials).
    """
    entry = entry_of(reference, registries)
    is_insecure = entry.insecure if entry else is_loopback(reference.registry)
    places = []
    for name in (*(f"{one.rstrip('/')}/{_rest(reference, entry)}" for one in (entry.mirrors if entry else ())), None):
        host, _, path = (name or location_of(reference, entry)).partition("/")
        place: dict[str, Any] = {"host": host, "path": path, "insecure": is_insecure, "known": name is None}
        places.append(place | _certificates(host))
    proxies = [os.environ.get(name) or os.environ.get(name.upper()) or "" for name in PROXIES]
    authorities = "" if is_insecure else _read(_files(os.environ.get("SSL_CERT_DIR", ""), ""))
    authorities += "" if is_insecure else _read([os.environ.get("SSL_CERT_FILE", "")])
    return {"places": places, "proxies": proxies, "authorities": authorities, "auth": _shown(auth, reference)}


def is_loopback(registry: str) -> bool:
    """Whether its host, with a port or without, is this one: it needs no TLS unless it has an entry of its own."""
    host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def entry_of(reference: Reference, registries: Sequence[Registry]) -> Registry | None:
    """The entry of the configuration for `reference`: that of the longest prefix. `*.` stands for subdomains."""
    matching = [one for one in registries if _covers(one.prefix.rstrip("/"), reference)]
    return max(matching, key=lambda one: len(one.prefix), default=None)


def _covers(prefix: str, reference: Reference) -> bool:
    if not prefix.startswith("*."):
        return f"{reference.name}/".startswith(f"{prefix}/")
    host, _, path = prefix[1:].partition("/")
    return reference.registry.endswith(host) and (not path or f"{reference.path}/".startswith(f"{path}/"))


def _rest(reference: Reference, entry: Registry | None) -> str:
    """The part of the name behind the entry's prefix."""
    if entry is None or entry.prefix.startswith("*."):
        return reference.path
    return reference.name[len(entry.prefix.rstrip("/")) :].lstrip("/")


def location_of(reference: Reference, entry: Registry | None) -> str:
    """The host and repository that really have it."""
    if entry is None or not entry.location:
        return reference.name
    return f"{entry.location.rstrip('/')}/{_rest(reference, entry)}"


def _certificates(host: str) -> dict[str, str]:
    """The authorities and the certificate of our own for a registry."""
    own = {"ca": "", "certificate": "", "key": ""}
    for directory in CERTIFICATES:
        place = f"{directory}/{host}"
        own["ca"] += _read(_files(place, ".crt"))
        for path in _files(place, ".cert"):
            own["certificate"], own["key"] = _read([path]), _read([f"{path.removesuffix('.cert')}.key"])
    return own


def _files(directories: str, ending: str) -> list[str]:
    """The files in directories, whose names a colon may separate as in SSL_CERT_DIR."""
    paths = []
    for directory in [directories] if ending else filter(None, directories.split(":")):
        with contextlib.suppress(OSError):
            paths += sorted(f"{directory}/{name}" for name in os.listdir(directory) if name.endswith(ending))
    return paths


def _read(paths: Sequence[str]) -> str:
    """The files, one after the other; without those that can't be read, as TLS libraries do."""
    texts = []
    for path in filter(None, paths):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            texts.append(_content(path, status.st_mtime_ns, size=status.st_size))
    return "".join(texts)


@functools.lru_cache(maxsize=512)
def _content(path: str, mtime_ns: int, *, size: int) -> str:
    """What was in the file at that time."""
    with open(path, "rb") as file:
        return file.read(_MOST_BYTES).decode("ascii", "replace") + "\n"


def _shown(auth: Auth | None, reference: Reference) -> dict[str, str]:
    """The credentials for the registry, and none for another one (`server_address`). Raises BadRequest."""
    if auth is None or not _is_for(auth, reference):
        return {}
    if auth.username or auth.password:
        return {"basic": base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()}
    if auth.identity_token:
        return {"identity": auth.identity_token}
    if auth.auth:
        return {"basic": _checked(auth.auth)}
    if not auth.registry_token.isascii() or not auth.registry_token.isprintable():
        raise Unsupported("the registry_token has characters that no token has; log in with a user name and password")
    return {"token": auth.registry_token} if auth.registry_token else {}


def _is_for(auth: Auth, reference: Reference) -> bool:
    address = auth.server_address.split("://")[-1].partition("/")[0]
    return not address or address == reference.registry or {address, reference.registry} <= _DOCKER_HUB


def _checked(encoded: str) -> str:
    with contextlib.suppress(ValueError):
        if b":" in base64.b64decode(encoded, validate=True):
            return encoded
    raise BadRequest("auth.auth is not the base64 of USER:PASSWORD")
