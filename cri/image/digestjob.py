# SPDX-License-Identifier: Apache-2.0
"""Asks a registry for which manifest a reference stands: the part of `digests` that runs in the confined process.

Each question is answered by a child that ends with it: what a registry has taken over by its answer sees no other
question and no other's password. Whatever is not plain (a redirect, another way to log in) has no answer here.
"""

import base64
import http.client
import json
import os
import re
import select
import signal
import ssl
import time
import urllib.parse
from typing import Any

from cri.image.asked import ANSWER_S, Asked

_CALL_S = 2.0
_TOKEN_BYTES = 64 << 10
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1", "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2",
    )
)  # fmt: skip
_HOSTS = {"docker.io": "registry-1.docker.io"}
_SAFE = ssl.create_default_context()
_ANY = ssl.create_default_context()
_ANY.check_hostname, _ANY.verify_mode = False, ssl.CERT_NONE
"""As skopeo does with a registry that is configured as insecure. Both are made once: reading all authorities takes
longer than an answer.
"""


def job(arguments: tuple[str, ...], data: bytes) -> str:
    """The digest that the registry names for `data`, which is an `Asked` as JSON; empty without one."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.dup2(writer, 1)
            os.close(0)
            os.write(1, digest(Asked(*json.loads(data))).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return _answer(reader, time.monotonic() + ANSWER_S)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _answer(reader: int, deadline: float) -> str:
    text = b""
    while len(text) < 100 and select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
        if not (data := os.read(reader, 100)):
            break
        text += data
    answer = text.decode("ascii", "replace")
    return answer if _DIGEST.fullmatch(answer) else ""


def digest(asked: Asked) -> str:
    """As `job`, in this process. An insecure registry is asked without TLS where that fails, as by skopeo."""
    for scheme in ("https", "http") if asked.is_insecure else ("https",):
        try:
            return _head(scheme, asked)
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            continue
    return ""


def _head(scheme: str, asked: Asked) -> str:
    host = _HOSTS.get(asked.registry, asked.registry)
    url = f"{scheme}://{host}/v2/{asked.path}/manifests/{asked.reference}"
    response = _call("HEAD", url, asked=asked, authorization="")
    if response.status == 401 and (authorization := _authorization(response, scheme, asked=asked)):
        response = _call("HEAD", url, asked=asked, authorization=authorization)
    return (response.getheader("Docker-Content-Digest") or "") if response.status == 200 else ""


def _call(method: str, url: str, *, asked: Asked, authorization: str) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    kind: Any = http.client.HTTPConnection
    options: dict[str, Any] = {}
    if parts.scheme == "https":
        kind, options = http.client.HTTPSConnection, {"context": _ANY if asked.is_insecure else _SAFE}
    connection = kind(parts.netloc, timeout=_CALL_S, **options)
    headers = {"Accept": _ACCEPT, "User-Agent": "clearpod"} | (
        {"Authorization": authorization} if authorization else {}
    )
    connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
    response: http.client.HTTPResponse = connection.getresponse()
    return response


def _authorization(response: http.client.HTTPResponse, scheme: str, *, asked: Asked) -> str:
    """The header that the registry asks for, by the user's name or a token; empty for what else there is."""
    offers = dict(offer.split(" ", 1) for offer in response.headers.get_all("WWW-Authenticate", []) if " " in offer)
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
    body = json.loads(answer.read(_TOKEN_BYTES)) if answer.status == 200 else {}
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else ""
    return f"Bearer {token}" if isinstance(token, str) and token else ""
