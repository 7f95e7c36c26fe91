# SPDX-License-Identifier: Apache-2.0
"""Asks a registry for which manifest a reference stands, or for a small document: the part of `digests` and `direct`
that runs in the confined process.

Whatever is not plain (another way to log in, a blob that is elsewhere) has no answer here.
"""

import base64
import contextlib
import http.client
import json
import re
import ssl
import urllib.parse
from typing import Any, NamedTuple

from cri.image.asked import LED, Asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CALL_S = 2.0
_MANIFEST, _BLOB = "manifest", "blob"
_TOKEN_BYTES = 64 << 10
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1", "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2",
    )
)  # fmt: skip
_MOST_DETOURS = 5
_ELSEWHERE = {301, 302, 303, 307, 308}
_HOSTS = {"docker.io": "registry-1.docker.io"}
_SAFE = ssl.create_default_context()
_ANY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_ANY.check_hostname, _ANY.verify_mode = False, ssl.CERT_NONE
"""TLS contexts with and, for a registry that is configured as insecure, without verification, as skopeo's. Both are
made once: reading all authorities takes longer than a request.
"""


FAULTS = (OSError, http.client.HTTPException, ValueError, RecursionError)
"""The exceptions that a request to a registry may raise."""


class Elsewhere(Exception):
    """The registry leads to another host, which does not give what is asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(urllib.parse.urlsplit(url).netloc)


_granted: dict[tuple[Asked, str], str] = {}
"""The header that let us in, by who asks what of whom, for the next document of the same image."""
_spoken: dict[str, str] = {}
"""With TLS or without it, by registry."""


def job(arguments: tuple[str, ...], data: bytes) -> str:
    """The digest that the registry names for `data`, which is an `Asked` as JSON. With arguments, which are manifest or
    blob, a digest, and how many bytes it may have: that document in base64. Empty without an answer; `LED` and a host
    when the registry leads there in vain.
    """
    asked = Asked(*json.loads(data))
    try:
        if not arguments:
            return digest(asked)
        kind, reference, most = arguments
        return base64.b64encode(document(asked._replace(reference=reference), kind, most_bytes=int(most))).decode()
    except Elsewhere as error:
        return f"{LED}{error}" if arguments else ""


def digest(asked: Asked) -> str:
    """Like `job`. For an insecure registry, plain HTTP is tried if TLS fails, as by skopeo."""
    answer = _answer("HEAD", f"manifests/{asked.reference}", asked=asked)
    named = answer.headers.get("Docker-Content-Digest") or "" if answer else ""
    return named if _DIGEST.fullmatch(named) else ""


def document(asked: Asked, kind: str, *, most_bytes: int) -> bytes:
    """Like `job`. The document is not parsed: it may contain anything."""
    answer = _answer("GET", f"{kind}s/{asked.reference}", asked=asked, most_bytes=most_bytes)
    return answer.body if answer else b""


def _answer(method: str, what: str, *, asked: Asked, most_bytes: int = 0) -> "_Answer | None":
    """None unless the registry gives it, whole."""
    for scheme in schemes(asked):
        try:
            answer = _authorized(method, scheme, what=what, asked=asked, most_bytes=most_bytes)
        except FAULTS:
            continue
        if method == "GET":
            _spoken[asked.registry] = scheme
        return answer if answer.status == 200 and len(answer.body) <= most_bytes else None
    return None


def schemes(asked: Asked) -> tuple[str, ...]:
    """How the registry is asked, the first one that it answers: the one by which it has given a document is enough."""
    if spoken := _spoken.get(asked.registry):
        return (spoken,)
    return ("https", "http") if asked.is_insecure else ("https",)


def url_of(what: str, scheme: str, *, asked: Asked) -> str:
    """The URL of `what` of the image."""
    return f"{scheme}://{_HOSTS.get(asked.registry, asked.registry)}/v2/{asked.path}/{what}"


def granted(asked: Asked, scheme: str) -> str:
    """The header that has let us in before, or empty."""
    return _granted.get((asked._replace(reference=""), scheme), "")


def _authorized(method: str, scheme: str, *, what: str, asked: Asked, most_bytes: int) -> "_Answer":
    with followed(method, url_of(what, scheme, asked=asked), asked=asked, timeout_s=_CALL_S) as response:
        return _Answer(response.status, response.headers, _body(response, most_bytes))


@contextlib.contextmanager
def followed(method: str, start: str, *, asked: Asked, timeout_s: float) -> "Iterator[http.client.HTTPResponse]":
    """The registry's answer, or that of the host that it redirects to, before the body is read.

    Credentials are sent only to the registry itself (another port is another host), and a redirect from TLS to plain
    HTTP is refused. Raises Elsewhere when another host does not answer with 200, some of `FAULTS`.
    """
    scheme, url = urllib.parse.urlsplit(start).scheme, start
    header, was_refused = granted(asked, scheme), False
    for _ in range(_MOST_DETOURS + 1):
        is_elsewhere = not _is_same(url, start)
        with contextlib.ExitStack() as stack:
            try:
                response = stack.enter_context(
                    response_of(
                        method, url, asked=asked, authorization="" if is_elsewhere else header, timeout_s=timeout_s
                    )
                )
            except FAULTS:
                if is_elsewhere:
                    raise Elsewhere(url) from None
                raise
            place = _detour(url, response.headers.get("Location", "")) if response.status in _ELSEWHERE else ""
            if response.status == 401 and not was_refused and url == start:
                was_refused, header = True, authorization(response.headers, scheme, asked=asked)
                if header:
                    continue
            elif place:
                url = place
                continue
            elif is_elsewhere and response.status != 200:
                raise Elsewhere(url)
            if method == "GET" and response.status == 200 and header:  # whoever stays asks anew
                _granted[asked._replace(reference=""), scheme] = header
            yield response
            return
    raise Elsewhere(url)


def _detour(url: str, location: str) -> str:
    """The target of a registry's redirect from `url`; empty if there is none, or if it would drop TLS."""
    place = urllib.parse.urljoin(url, location)
    return place if urllib.parse.urlsplit(place).scheme in {"https", urllib.parse.urlsplit(url).scheme} else ""


def _is_same(url: str, other: str) -> bool:
    return urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(other)[:2]


class _Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def _call(method: str, url: str, *, asked: Asked, authorization: str, most_bytes: int = _TOKEN_BYTES) -> _Answer:
    """A little more than `most_bytes` of a body that has more."""
    with response_of(method, url, asked=asked, authorization=authorization, timeout_s=_CALL_S) as response:
        return _Answer(response.status, response.headers, _body(response, most_bytes))


def _body(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    body = response.read(most_bytes + 1)
    if response.length and len(body) <= most_bytes:
        raise http.client.IncompleteRead(body, response.length)
    return body


@contextlib.contextmanager
def response_of(
    method: str, url: str, *, asked: Asked, authorization: str, timeout_s: float
) -> "Iterator[http.client.HTTPResponse]":
    """The answer before its body is read, for each piece of which there are `timeout_s`. Raises some of `FAULTS`."""
    parts = urllib.parse.urlsplit(url)
    kind: Any = http.client.HTTPConnection
    options: dict[str, Any] = {}
    if parts.scheme == "https":
        kind, options = http.client.HTTPSConnection, {"context": _ANY if asked.is_insecure else _SAFE}
    headers = {"Accept": _ACCEPT, "User-Agent": "clearpod"}
    if authorization:
        headers["Authorization"] = authorization
    with contextlib.closing(kind(parts.netloc, timeout=_CALL_S, **options)) as connection:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
        connection.sock.settimeout(timeout_s)
        with connection.getresponse() as response:
            yield response


def authorization(headers: http.client.HTTPMessage, scheme: str, *, asked: Asked) -> str:
    """The header that the registry asks for, by the user's name or a token; empty for what else there is."""
    offers = dict(offer.split(" ", 1) for offer in headers.get_all("WWW-Authenticate", []) if " " in offer)
    kinds = {kind.lower(): rest for kind, rest in offers.items()}
    basic = f"Basic {base64.b64encode(asked.user.encode()).decode()}" if asked.user else ""
    if "bearer" not in kinds:
        return basic if "basic" in kinds else ""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', kinds["bearer"]))
    realm = fields.pop("realm", "")
    if urllib.parse.urlsplit(realm).scheme not in {"https", scheme}:
        return ""
    question = {name: fields[name] for name in ("service", "scope") if name in fields}
    answer = _call("GET", f"{realm}?{urllib.parse.urlencode(question)}", asked=asked, authorization=basic)
    body = json.loads(answer.body) if answer.status == 200 else {}
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else ""
    return f"Bearer {token}" if isinstance(token, str) and token else ""
