# SPDX-License-Identifier: Apache-2.0
"""The two files that configure skopeo for a registry: registries.conf and the authfile. Pure.

Made for each pull from the daemon's configuration and the request, so neither files of the system nor another user's
credentials have an influence.
"""

import base64
import ipaddress
import json
from collections.abc import Sequence
from typing import NamedTuple

from cri.config_tables import Registry
from cri.store.reference import Reference
from stage1.errors import BadRequest, Unsupported


class Auth(NamedTuple):
    """Credentials of one pull, as CRI's AuthConfig has them."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""


def registries_conf(registries: Sequence[Registry], reference: Reference) -> str:
    """registries.conf, version 2, for `--registries-conf`. A registry on loopback needs no TLS unless it has an entry
    of its own; an entry of another registry whose location is there does not count.
    """
    lines = ["unqualified-search-registries = []"]
    known = list(registries)
    if is_loopback(reference.registry) and not any(r.prefix.rstrip("/") == reference.registry for r in known):
        known.append(Registry(prefix=reference.registry, insecure=True))
    for registry in known:
        lines += ["[[registry]]", f"prefix = {_text(registry.prefix)}"]
        lines += [f"location = {_text(registry.location or registry.prefix)}", _insecure(registry)]
        for mirror in registry.mirrors:
            lines += ["[[registry.mirror]]", f"location = {_text(mirror)}", _insecure(registry)]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    # Every JSON string is a TOML basic string with the same meaning.
    return json.dumps(value)


def _insecure(registry: Registry) -> str:
    return f"insecure = {'true' if registry.insecure else 'false'}"


def _host(location: str) -> str:
    return location.partition("/")[0]


def is_loopback(registry: str) -> bool:
    """Whether its host, with a port or without, is this one."""
    host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def entry_of(reference: Reference, registries: Sequence[Registry]) -> Registry | None:
    """The entry of the configuration that is for `reference`, if any."""
    name = reference.name
    matching = [r for r in registries if name == r.prefix or name.startswith(r.prefix.rstrip("/") + "/")]
    return max(matching, key=lambda r: len(r.prefix), default=None)


def location_of(reference: Reference, registries: Sequence[Registry]) -> str:
    """The host that really serves `reference`: skopeo looks credentials up under that name."""
    best = entry_of(reference, registries)
    return _host(best.location or best.prefix) if best else reference.registry


def authfile(auth: Auth | None, reference: Reference, *, registries: Sequence[Registry]) -> str:
    """JSON for `--authfile`. Credentials for another registry (`server_address`) are left out.

    Raises BadRequest, Unsupported (bearer tokens).
    """
    entry = _entry(auth) if auth and _is_for(auth, reference) else None
    hosts = {reference.registry, location_of(reference, registries)}
    return json.dumps({"auths": dict.fromkeys(sorted(hosts), entry)} if entry else {})


def user_of(auth: Auth | None, reference: Reference) -> str | None:
    """USER:PASSWORD, empty where there is none for this registry, None where there is something else.

    Raises BadRequest, Unsupported (bearer tokens).
    """
    entry = _entry(auth) if auth and _is_for(auth, reference) else None
    if entry is None:
        return ""
    return None if "identitytoken" in entry else base64.b64decode(entry["auth"]).decode("utf-8", "surrogateescape")


def _is_for(auth: Auth, reference: Reference) -> bool:
    address = auth.server_address.split("://")[-1].partition("/")[0]
    return not address or address == reference.registry or {address, reference.registry} <= _DOCKER_HUB


_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


def _entry(auth: Auth) -> dict[str, str] | None:
    if auth.username or auth.password:
        return {"auth": base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()}
    if auth.identity_token:
        # A refresh token: the user name is empty by convention.
        return {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": auth.identity_token}
    if auth.auth:
        return {"auth": _checked(auth.auth)}
    if auth.registry_token:
        raise Unsupported("clearpod can't log in with a registry_token; use a user name and password")
    return None


def _checked(encoded: str) -> str:
    try:
        if b":" in base64.b64decode(encoded, validate=True):
            return encoded
    except ValueError:
        pass
    raise BadRequest("auth.auth is not the base64 of USER:PASSWORD")
