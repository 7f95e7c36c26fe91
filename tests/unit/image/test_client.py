# SPDX-License-Identifier: Apache-2.0
"""The client of registries by itself, in this process, against small servers; `tests/system/test_registry_table.py` has
what users see.
"""

import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cri.image import client
from cri.image.manifest import digest_of
from tests.fakes.patience import PATIENCE

Answer = Callable[[BaseHTTPRequestHandler], None]
DIGEST = "sha256:" + "a" * 64
OF_DIGEST = ("Docker-Content-Digest", DIGEST)
CONTENT = os.urandom(700_000)
BLOB = digest_of(CONTENT)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE_S", 0.01)
    client._known.clear()


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            answer(self)

        do_GET = do_POST = do_HEAD

        def log_message(self, *_: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def says(status: int, *headers: tuple[str, str], body: bytes = b"") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return answer


def asked(
    *hosts: str, auth: dict[str, str] | None = None, insecure: bool = True, proxies: tuple[str, ...] = ()
) -> bytes:
    places = [
        {
            "host": host,
            "path": "a",
            "insecure": insecure,
            "known": host == hosts[-1],
            "ca": "",
            "certificate": "",
            "key": "",
        }
        for host in hosts
    ]
    own = {"basic": "bWU6c2VjcmV0"} if auth is None else auth
    document = {"places": places, "proxies": list(proxies) or ["", "", ""], "authorities": "", "auth": own}
    return json.dumps(document).encode()


def by_token(seen: list[str], *, token: bytes = b'{"token": "t"}') -> Answer:
    """What answers who shows a token."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        seen.append(f"{request.command} {path}")
        if path == "/token":
            size = int(request.headers.get("Content-Length", 0))
            seen.append(request.headers.get("Authorization", "") + request.rfile.read(size).decode())
            says(200, body=token)(request)
        elif request.headers["Authorization"] == "Bearer t":
            says(200, OF_DIGEST, body=b"{}")(request)
        else:
            realm = f'Bearer realm="http://{request.headers["Host"]}/token",service="x",scope="s:a"'
            says(401, ("WWW-Authenticate", realm))(request)

    return answer


@pytest.mark.parametrize(
    ("answer", "digest"),
    [
        (says(200, OF_DIGEST), DIGEST),
        (says(200), ""),
        (says(200, ("Docker-Content-Digest", DIGEST + "\r\n x")), ""),
        (says(200, ("Docker-Content-Digest", "x")), ""),
        (says(404, OF_DIGEST), "absent"),
        (says(307, OF_DIGEST, ("Location", "http://127.0.0.1:1/")), "misled"),
        (says(200, *(("X", "y") for _ in range(1000)), OF_DIGEST), "odd"),
        (says(401, ("WWW-Authenticate", "Negotiate")), "login"),
        (by_token([]), DIGEST),
        (by_token([], token=b'{"access_token": "t"}'), DIGEST),
        (by_token([], token=b'{"token": "other"}'), "login"),
        (by_token([], token=b"[" * 60_000), "login"),
        (by_token([], token=b'{"token": "a\\r\\nb"}'), "login"),
    ],
)
def test_a_digest_is_taken_from_a_plain_answer_only(answer: Answer, digest: str) -> None:
    with server(answer) as host:
        result = client.job(("digest", "1"), asked(host))
    assert (result["failed"][0] if isinstance(result, dict) else result) == digest


def test_a_token_serves_for_all_documents_of_an_image_and_is_asked_for_by_an_identity_token_too() -> None:
    seen: list[str] = []
    with server(by_token(seen)) as host:
        for what in ("1", DIGEST):
            assert base64.b64decode(client.job(("manifest", what, "100"), asked(host))) == b"{}"
        first = "GET /v2/a/manifests/1"
        assert seen == [first, "GET /token", "Basic bWU6c2VjcmV0", first, f"GET /v2/a/manifests/{DIGEST}"]
        seen.clear()
        assert base64.b64decode(client.job(("manifest", "1", "100"), asked(host, auth={"identity": "i"}))) == b"{}"
    assert seen[1] == "POST /token" and "grant_type=refresh_token" in seen[2] and "refresh_token=i" in seen[2]


def test_a_detour_gets_no_credentials_but_at_the_registry_itself() -> None:
    seen: list[tuple[str, str | None]] = []

    def store(request: BaseHTTPRequestHandler) -> None:
        seen.append((request.path, request.headers["Authorization"]))
        says(200, body=b"{}")(request)

    with server(store) as other:

        def registry(request: BaseHTTPRequestHandler) -> None:
            seen.append((request.path, request.headers["Authorization"]))
            if request.headers["Authorization"] != "Basic bWU6c2VjcmV0":
                says(401, ("WWW-Authenticate", "Basic realm=x"))(request)
            elif request.path.startswith("/v2/"):
                says(302, ("Location", "/here?x=1"))(request)
            else:
                says(307, ("Location", f"http://{other}/there"))(request)

        with server(registry) as host:
            client.job(("blob", DIGEST, "100"), asked(host))
    mine, path = "Basic bWU6c2VjcmV0", f"/v2/a/blobs/{DIGEST}"
    assert seen == [(path, None), (path, mine), ("/here?x=1", mine), ("/there", None)]


def test_a_redirect_from_tls_to_plain_http_is_refused() -> None:
    assert not client._is_same("https://r.io/x", "http://r.io/x")
    assert client._detour("https://r.io/v2/x", "http://r.io/x") == ""
    assert client._detour("http://r.io/v2/x", "https://r.io/x") == "https://r.io/x"
    assert client._detour("https://r.io/v2/x", "//cdn.io/x") == "https://cdn.io/x"
    assert client._detour("https://r.io/v2/x", "http://[::1") == ""


def test_a_registry_that_needs_tls_is_not_asked_in_the_clear() -> None:
    with server(says(200, OF_DIGEST)) as host:
        assert client.job(("digest", "1"), asked(host, insecure=False))["failed"][:1] == ["tls"]


def test_a_registry_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.1)
    monkeypatch.setattr(client, "CONNECT_S", 0.1)
    done = threading.Event()
    with server(lambda _: done.wait(20 * PATIENCE) and None) as host:
        assert client.job(("digest", "1"), asked(host))["failed"][2] == "no answer in time"
        done.set()


def test_a_connection_serves_for_several_requests_and_one_that_the_registry_has_closed_is_replaced() -> None:
    ports: list[int] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        ports.append(request.client_address[1])
        request.close_connection = len(ports) == 2  # without saying so
        says(200, OF_DIGEST, ("Content-Length", "2"), body=b"{}")(request)

    with server(answer) as host:
        question = asked(host)
        for words in (("digest", "1"), ("manifest", "1", "9"), ("digest", "1"), ("digest", "1")):
            assert isinstance(client.job(words, question), str)
        for connections in client._idle.values():
            while connections:
                connections.pop().close()
    assert len(set(ports)) == 2 and ports[0] == ports[1] and ports[2] == ports[3]


@pytest.mark.parametrize(
    ("host", "port", "none", "proxied"),
    [
        ("r.io", 443, "", True),
        ("localhost", 443, "", False),
        ("127.0.0.9", 443, "", False),
        ("::1", 443, "", False),
        ("r.io", 443, "*", False),
        ("r.io", 443, "other.io, r.io", False),
        ("a.r.io", 443, "r.io", False),
        ("a.r.io", 443, ".r.io", False),
        ("a.r.io", 443, "*.r.io", False),
        ("ar.io", 443, "r.io", True),
        ("r.io", 443, "r.io:5000", True),
        ("r.io", 5000, "r.io:5000", False),
        ("10.1.2.3", 443, "10.0.0.0/8", False),
        ("10.1.2.3", 443, "10.1.2.3:443", False),
        ("11.1.2.3", 443, "10.0.0.0/8,,x/y", True),
        ("fd00::1", 443, "fd00::/8", False),
    ],
)
def test_no_proxy_has_names_addresses_and_networks(host: str, port: int, none: str, proxied: bool) -> None:
    assert bool(client._proxy("https", host, port=port, proxies=["http://p:1", "", none])) == proxied


def brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: bytes, size: int = len(CONTENT)
) -> tuple[Any, Any]:
    """What is told while a blob comes, and in the end."""
    (tmp_path / "out").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    events, job = [], client.job(("blobs", json.dumps({BLOB: size}), "3"), question)
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            return events, end.value


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_a_whole_blob_is_a_file_and_is_told_as_it_comes(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(says(200, body=CONTENT)) as host:
        events, result = brought(tmp_path, monkeypatch, asked(host), size)
    assert (events[0][:2], events[-2:], result) == (
        ["bytes", BLOB],
        [["bytes", BLOB, len(CONTENT)], ["whole", BLOB]],
        None,
    )
    assert os.listdir(tmp_path / "out") == [BLOB[7:]] and (tmp_path / "out" / BLOB[7:]).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says(200, body=CONTENT[:-1]), "unreachable"),
        (says(200, body=CONTENT + b"x"), "size"),
        (says(200, ("Content-Length", str(len(CONTENT))), body=CONTENT[:-1]), "unreachable"),
        (says(200, ("Content-Length", str(len(CONTENT) + 1)), body=CONTENT + b"x"), "size"),
        (says(200, ("Content-Encoding", "gzip"), body=CONTENT), "odd"),
        (says(204), "odd"),
        (says(206, body=CONTENT), "odd"),
        (says(404, body=CONTENT), "damaged"),
        (says(429, ("Retry-After", "100")), "busy"),
        (says(503, ("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT")), "failing"),
        (says(401, ("WWW-Authenticate", "Basic realm=x")), "login"),
        (says(307, ("Location", "/again"), body=CONTENT), "odd"),
        (says(307, body=CONTENT), "odd"),
        (says(307, ("Location", "ftp://127.0.0.1/x")), "odd"),
        (says(307, ("Location", "http://127.0.0.1:1/")), "misled"),
    ],
)
def test_of_anything_else_no_blob_is_left(
    answer: Answer, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(answer) as host:
        _, result = brought(tmp_path, monkeypatch, asked(host))
    assert result["failed"][0] == kind and BLOB[7:] not in os.listdir(tmp_path / "out")


def test_another_place_is_asked_for_what_a_mirror_sends_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str | None] = []

    def wrong(request: BaseHTTPRequestHandler) -> None:
        shown.append(request.headers["Authorization"])
        says(200, body=bytes(len(CONTENT)))(request)

    with server(wrong) as mirror, server(says(200, body=CONTENT)) as host:
        _, result = brought(tmp_path, monkeypatch, asked(mirror, host))
    assert (result, shown) == (None, [None]) and (tmp_path / "out" / BLOB[7:]).read_bytes() == CONTENT


def test_a_pause_that_a_registry_asks_for_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(client.time, "sleep", slept.append)
    answers = iter([says(429, ("Retry-After", "7")), says(503), says(200, OF_DIGEST)])

    def answer(request: BaseHTTPRequestHandler) -> None:
        next(answers)(request)

    with server(answer) as host:
        assert client.job(("digest", "1"), asked(host)) == DIGEST
    assert slept == [7.0, 0.02]


def test_a_host_that_is_none_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert client.job(("digest", "1"), asked("none.invalid"))["failed"][2] == "no such host"
