# SPDX-License-Identifier: Apache-2.0
"""Credentials for registries in the files that podman, skopeo and docker share: containers-auth.json(5), and docker's
config.json with its helper programs (docker-credential-NAME).

Called by the commands of a user, never by the daemon, which gets credentials with each request. No secret is ever in an
argument, a log or an error.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from cri.image.origins import Auth
from cri.image.source import LOCAL
from cri.store.reference import Reference, parse
from stage1.errors import BadRequest, NotFound, PodError
from stage1.linux import files, flock
from stage1.linux.libc import Guard

MOST_BYTES = 4 << 20
HELPER_S = 60.0
TOKEN_USER = "<token>"
DOCKER_HUB, _DOCKERS = "docker.io", "https://index.docker.io/v1/"
_OTHER_NAMES = {"index.docker.io": DOCKER_HUB, "registry-1.docker.io": DOCKER_HUB}
_NO_CREDENTIALS = "credentials not found"


class Files(NamedTuple):
    """Where credentials are: the files that are read, in their order, and the one that is written.

    One that was `chosen` by the user must be there.
    """

    readable: tuple[str, ...]
    writable: str
    chosen: bool = False


def places(chosen: str, ours: Mapping[str, str]) -> Files:
    """The files of a user with the environment `ours`; `chosen` is the value of --authfile, or empty."""
    if path := chosen or ours.get("REGISTRY_AUTH_FILE", ""):
        return Files((path,), path, chosen=True)
    home = ours.get("HOME") or os.path.expanduser("~")
    runtime = ours.get("XDG_RUNTIME_DIR")
    first = f"{runtime}/containers/auth.json" if runtime else f"/run/containers/{os.getuid()}/auth.json"
    config = ours.get("XDG_CONFIG_HOME") or f"{home}/.config"
    docker = ours.get("DOCKER_CONFIG") or f"{home}/.docker"
    return Files((first, f"{config}/containers/auth.json", f"{docker}/config.json"), first)


def from_option(text: str) -> Auth:
    """The value of --creds: USER:PASSWORD. Raises BadRequest, which does not repeat it."""
    user, colon, password = text.partition(":")
    if not user or not colon:
        raise BadRequest("--creds is not USER:PASSWORD; `clearpod login` asks for a password that shall not be typed")
    check(user, password)
    return Auth(username=user, password=password)


def of_command(creds: str, authfile: str, *, reference: str) -> Auth | None:
    """The credentials for the image `reference` of a command with the options --creds and --authfile; None for a file
    of this host and where there are none. Raises as `find` and `from_option`.
    """
    if reference.startswith(LOCAL):
        return None
    return from_option(creds) if creds else find(places(authfile, os.environ), parse(reference))


def check(user: str, password: str) -> None:
    """Raise BadRequest for what can't be sent to a registry; the password is not repeated."""
    if not user or ":" in user or not user.isprintable():
        raise BadRequest(f"the user name {user[:64]!r} is empty, or has a colon or a control character")
    if not password or not password.isprintable():
        raise BadRequest("the password is empty, has more than one line, or is not UTF-8")


def find(where: Files, reference: Reference) -> Auth | None:
    """The credentials for the repository: the first file's that has some. Raises NotFound, BadRequest, PodError."""
    for path in where.readable:
        document = _read(path, must_exist=where.chosen)
        if (auth := _in_file(document, reference, path=path)) is not None:
            return auth
    return None


def user(where: Files, registry: str) -> str:
    """The name of the user who is logged in, or empty. Raises as `find`."""
    host, _, path = registry.partition("/")
    auth = find(where._replace(chosen=False), Reference(host, path))
    return auth.username if auth else ""


def store(where: Files, registry: str, *, auth: Auth) -> str:
    """Write the credentials for a registry, or a repository in it, to the file, or have its helper keep them.

    Return what they are in. Raises BadRequest (the file is no such file), PodError.
    """
    with _editing(where.writable) as document:
        if helper := _helper(document, registry):
            secret = {"ServerURL": _server(registry), "Username": auth.username, "Secret": auth.password}
            _ask(helper, "store", given=json.dumps(secret))
            return f"the helper {helper}"
        encoded = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        _remove(document, registry)
        document.setdefault("auths", {})[registry] = {"auth": encoded}
        _write(where.writable, document)
    return where.writable


def forget(where: Files, registry: str) -> bool:
    """Remove the credentials for a registry from the file and from its helper; whether there were some."""
    if not os.path.exists(where.writable):
        return False
    with _editing(where.writable) as document:
        helper, is_known = _helper(document, registry), False
        if helper and _ask(helper, "get", given=_server(registry)):
            _ask(helper, "erase", given=_server(registry))
            is_known = True
        if _remove(document, registry):
            _write(where.writable, document)
            is_known = True
    return is_known


def forget_all(where: Files) -> None:
    """Remove the credentials for all registries from the file, and from the helpers that it names."""
    if not os.path.exists(where.writable):
        return
    with _editing(where.writable) as document:
        for registry in {*document.get("auths", {}), *document.get("credHelpers", {})}:
            if helper := _helper(document, registry):
                _ask(helper, "erase", given=_server(_normal(registry)))
        document["auths"] = {}
        _write(where.writable, document)


# -- one file ----------------------------------------------------------------------------------------------------


def _read(path: str, *, must_exist: bool) -> dict[str, Any]:
    """The document, empty when there is none. Raises NotFound, BadRequest, which repeat nothing of it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise NotFound(f"there is no file {path} with credentials; `clearpod login` makes it") from None
        return {}
    except OSError as error:
        raise PodError(f"{path}, which has credentials for registries, can't be read: {error.strerror}") from None
    if not data.strip():
        return {}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    tables = (document.get(key, {}) for key in ("auths", "credHelpers")) if isinstance(document, dict) else (None,)
    if not all(isinstance(table, dict) for table in tables):
        raise BadRequest(f"{path} is not a file of credentials as containers-auth.json(5) has it; correct or remove it")
    return dict(document)


@contextmanager
def _editing(path: str) -> Iterator[dict[str, Any]]:
    """The document at `path`, while no other of us changes it: its directory is locked."""
    directory = os.path.dirname(os.path.realpath(path))
    files.make_dirs(directory, 0o700)
    with Guard("open", directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock.take(fd)
        yield _read(path, must_exist=False)
    finally:
        os.close(fd)


def _write(path: str, document: dict[str, Any]) -> None:
    files.write_atomic(os.path.realpath(path), json.dumps(document, indent="\t").encode() + b"\n", 0o600)


def _remove(document: dict[str, Any], registry: str) -> bool:
    known = document.get("auths", {})
    gone = [key for key in known if _normal(key) == _normal(registry)]
    for key in gone:
        del known[key]
    return bool(gone)


def _in_file(document: dict[str, Any], reference: Reference, *, path: str) -> Auth | None:
    """The credentials of the longest key that is the repository or above it; a helper's of the registry come first."""
    registry = reference.registry
    if (helper := _helper(document, registry)) and (answer := _ask(helper, "get", given=_server(registry))):
        return _from_helper(answer, helper)
    entries = {_normal(key): entry for key, entry in document.get("auths", {}).items()}
    for name in _names(reference):
        entry = entries.get(name)
        if isinstance(entry, dict) and (auth := _from_entry(entry, f"{path}: {name}")):
            return auth
    return None


def _names(reference: Reference) -> Iterator[str]:
    """The repository, what is above it, and the registry itself."""
    name = reference.name.rstrip("/")
    while name:
        yield name
        name = name.rpartition("/")[0]


def _normal(key: str) -> str:
    """A key of a file, of which docker writes some as URLs."""
    bare = key.removeprefix("https://").removeprefix("http://")
    host, slash, path = bare.partition("/")
    is_url = bare != key
    host = _OTHER_NAMES.get(host, host)
    return host if is_url or not slash else f"{host}/{path}".rstrip("/")


def _from_entry(entry: dict[str, Any], what: str) -> Auth | None:
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Auth(identity_token=token)
    encoded = entry.get("auth")
    if not encoded:
        return None
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (ValueError, TypeError):
        text = ""
    name, colon, password = text.partition(":")
    if not colon:
        raise BadRequest(f"{what} has an auth that is not the base64 of USER:PASSWORD; log in again")
    return Auth(username=name, password=password.rstrip("\0"))


# -- helper programs ---------------------------------------------------------------------------------------------


def _helper(document: dict[str, Any], registry: str) -> str:
    """The name of the program that keeps the credentials of a registry, or empty."""
    host = registry.partition("/")[0]
    helpers = {_normal(key): name for key, name in document.get("credHelpers", {}).items()}
    name = helpers.get(_normal(host)) or document.get("credsStore") or ""
    if not isinstance(name, str) or "/" in name:
        raise BadRequest(
            f"{str(name)[:64]!r} is not the name of a helper for credentials; it is a word without slashes"
        )
    return name


def _server(registry: str) -> str:
    """What docker calls a registry when it asks a helper."""
    host = registry.partition("/")[0]
    return _DOCKERS if host == DOCKER_HUB else host


def _ask(helper: str, action: str, *, given: str) -> str:
    """The answer of docker-credential-HELPER; empty when it has nothing. Raises NotFound, PodError."""
    program = f"docker-credential-{helper}"
    try:
        ended = subprocess.run(
            [program, action], input=given.encode(), capture_output=True, timeout=HELPER_S, check=False
        )
    except FileNotFoundError:
        raise NotFound(
            f"there is no program {program}, which keeps the credentials of this registry; install it"
        ) from None
    except OSError as error:
        raise PodError(f"{program}, which keeps credentials, can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise PodError(f"{program}, which keeps credentials, did not answer within {HELPER_S:g} s") from None
    if ended.returncode == 0:
        return ended.stdout[:MOST_BYTES].decode("utf-8", "replace")
    if action == "get" and _NO_CREDENTIALS in (ended.stdout + ended.stderr).decode("utf-8", "replace"):
        return ""
    raise PodError(f"{program} {action} failed with exit code {ended.returncode}; run it by hand to see why")


def _from_helper(answer: str, helper: str) -> Auth:
    try:
        document = json.loads(answer)
        name, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = secret = None
    if not isinstance(name, str) or not isinstance(secret, str):
        raise PodError(f"docker-credential-{helper} did not answer with a user name and a secret; update it")
    return Auth(identity_token=secret) if name == TOKEN_USER else Auth(username=name, password=secret)
