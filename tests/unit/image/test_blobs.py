# SPDX-License-Identifier: Apache-2.0
"""Blobs that a registry is asked for without skopeo: those that come plainly and whole are files, of others nothing."""

import hashlib
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cri.image import blobjob, digestjob
from cri.image.asked import Asked
from tests.fakes.patience import PACE, PATIENCE

from .test_digests import Answer, says, server

CONTENT = os.urandom(700_000)
HEX = hashlib.sha256(CONTENT).hexdigest()
BLOBS = {f"sha256:{HEX}": len(CONTENT)}


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    digestjob._spoken.clear()
    digestjob._granted.clear()


def brought(answer: Answer, directory: Path, *, is_insecure: bool = True) -> list[str]:
    with server(answer) as host:
        asked = Asked(host, "a", "1", is_insecure, "me:secret")
        count, _ = blobjob.bring(asked, BLOBS, directory=str(directory))
    assert count == len(os.listdir(directory))
    return os.listdir(directory)


def chunked(request: BaseHTTPRequestHandler) -> None:
    request.protocol_version = "HTTP/1.1"
    says(200, ("Transfer-Encoding", "chunked"), ("Connection", "close"))(request)
    for piece in (CONTENT[:300_000], CONTENT[300_000:]):
        request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    request.wfile.write(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "answer", [says(200, body=CONTENT), says(200, ("Content-Length", str(len(CONTENT))), body=CONTENT), chunked]
)
def test_a_whole_blob_is_a_file(answer: Answer, tmp_path: Path) -> None:
    assert brought(answer, tmp_path) == [HEX]
    assert (tmp_path / HEX).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer",
    [
        says(200, body=CONTENT[:-1]),
        says(200, body=CONTENT + b"x"),
        says(200, ("Content-Length", str(len(CONTENT))), body=CONTENT[:-1]),
        says(200, ("Content-Length", str(len(CONTENT) + 1)), body=CONTENT + b"x"),
        says(200, ("Content-Encoding", "gzip"), body=CONTENT),
        says(200),
        says(204),
        says(206, body=CONTENT),
        says(404, body=CONTENT),
        says(429, ("Retry-After", "1")),
        says(401, ("WWW-Authenticate", "Negotiate")),
        says(401, ("WWW-Authenticate", "Basic")),
        says(401, ("WWW-Authenticate", "Basic realm=x"), body=CONTENT),
        says(307, ("Location", "/again"), body=CONTENT),
        says(307, body=CONTENT),
        says(307, ("Location", "file:///etc/passwd")),
        says(307, ("Location", "ftp://127.0.0.1/x")),
        says(307, ("Location", "http://[::1")),
        says(307, ("Location", "http://127.0.0.1:1/")),
        says(200, *(("X", "y") for _ in range(1000)), body=CONTENT),
    ],
)
def test_of_anything_else_nothing_is_left(answer: Answer, tmp_path: Path) -> None:
    assert brought(answer, tmp_path) == []


def broken_off(request: BaseHTTPRequestHandler) -> None:
    """Half of it, and a reset."""
    says(200, ("Content-Length", str(len(CONTENT))), body=CONTENT[: len(CONTENT) // 2])(request)
    request.wfile.flush()
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def silent(request: BaseHTTPRequestHandler) -> None:
    """Half of it, and nothing until the client goes."""
    says(200, ("Content-Length", str(len(CONTENT))), body=CONTENT[: len(CONTENT) // 2])(request)
    request.wfile.flush()
    request.rfile.read(1)


def bad_chunk(request: BaseHTTPRequestHandler) -> None:
    request.protocol_version = "HTTP/1.1"
    says(200, ("Transfer-Encoding", "chunked"), ("Connection", "close"))(request)
    request.wfile.write(b"%x\r\n%b\r\nzzz\r\n" % (300_000, CONTENT[:300_000]))


@pytest.mark.parametrize("answer", [broken_off, silent, bad_chunk])
def test_half_a_blob_is_no_file_whatever_ended_it(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed, and counted as part of what another program brought: more than the manifest says."""
    monkeypatch.setattr(blobjob, "_STALLED_S", 0.3 * PACE)
    assert brought(answer, tmp_path) == []


def test_what_comes_is_in_the_file_at_once_however_slowly_it_comes(tmp_path: Path) -> None:
    """The daemon gives up a download whose files do not grow."""
    go_on, part = threading.Event(), tmp_path / f"{HEX}{blobjob.PART}"

    def slow(request: BaseHTTPRequestHandler) -> None:
        says(200, ("Content-Length", str(len(CONTENT))), body=CONTENT[:100])(request)
        request.wfile.flush()
        go_on.wait(10 * PATIENCE)
        request.wfile.write(CONTENT[100:])

    with ThreadPoolExecutor(1) as pool:
        bringing = pool.submit(brought, slow, tmp_path)
        until = time.monotonic() + 5 * PATIENCE
        while not (part.exists() and part.stat().st_size == 100):
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        size = part.stat().st_size
        go_on.set()
        assert (size, bringing.result()) == (100, [HEX])


def test_a_detour_gets_no_credentials_but_at_the_registry_itself(tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    def store(request: BaseHTTPRequestHandler) -> None:
        seen.append((request.path, request.headers["Authorization"]))
        says(200, body=CONTENT)(request)

    with server(store) as other:

        def registry(request: BaseHTTPRequestHandler) -> None:
            seen.append((request.path, request.headers["Authorization"]))
            if request.headers["Authorization"] != "Basic bWU6c2VjcmV0":
                says(401, ("WWW-Authenticate", "Basic realm=x"))(request)
            elif request.path.startswith("/v2/"):
                says(302, ("Location", "/here?x=1"))(request)
            else:
                says(307, ("Location", f"http://{other}/there"))(request)

        assert brought(registry, tmp_path) == [HEX]
    mine = "Basic bWU6c2VjcmV0"
    path = f"/v2/a/blobs/sha256:{HEX}"
    assert seen == [(path, None), (path, mine), ("/here?x=1", mine), ("/there", None)]


def test_a_redirect_from_tls_to_plain_http_is_refused() -> None:
    assert not digestjob._is_same("https://r.io/x", "http://r.io/x")
    assert digestjob._detour("https://r.io/v2/x", "http://r.io/x") == ""
    assert digestjob._detour("http://r.io/v2/x", "https://r.io/x") == "https://r.io/x"
    assert digestjob._detour("https://r.io/v2/x", "//cdn.io/x") == "https://cdn.io/x"


def test_few_are_brought_at_once_and_one_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    blobs = {f"sha256:{hashlib.sha256(bytes([n])).hexdigest()}": 1 for n in range(8)}
    lock, now, most = threading.Lock(), 0, 0

    def answer(request: BaseHTTPRequestHandler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        digest = request.path.rpartition("/")[2]
        with lock:
            now -= 1
        says(200 if digest != list(blobs)[1] else 500, body=b"x")(request)

    with server(answer) as host:
        assert blobjob.bring(Asked(host, "a", "1", True), blobs, directory=str(tmp_path)) == (len(blobs) - 1, "")
    assert sorted(os.listdir(tmp_path)) == sorted(one[7:] for one in blobs if one != list(blobs)[1])
    assert most <= blobjob.AT_ONCE
