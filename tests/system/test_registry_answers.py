# SPDX-License-Identifier: Apache-2.0
"""Registries that answer as none does: the whole pull ends with one sentence that blames them, and leaves nothing."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cri.config import Config
from cri.config_tables import Registry as RegistryEntry
from cri.image.origins import Auth
from cri.image.pull import pull
from cri.image.registry import LoginNeeded, RegistryUnavailable
from cri.store.images import ImageStore
from stage1.errors import PodError
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import OverLimit
from tests.fakes.oci_layout import Layer, Layout, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking

from .test_registry import orphans

BIG = Layer(tar([file("big", os.urandom(400_000))]))
Say = Callable[[BaseHTTPRequestHandler, bytes], None]


def says(status: int, *headers: tuple[str, str], body: bytes = b"x") -> Say:
    def say(http: BaseHTTPRequestHandler, data: bytes) -> None:
        http.send_response(status)
        for name, value in (("Content-Length", str(len(body))), ("Connection", "close"), *headers):
            http.send_header(name, value)
        http.end_headers()
        if http.command == "GET":
            http.wfile.write(body)

    return say


def leads_to(place: str) -> Say:
    return says(307, ("Location", place))


def around(http: BaseHTTPRequestHandler, data: bytes) -> None:
    leads_to(http.path)(http, data)


def rubbish(http: BaseHTTPRequestHandler, data: bytes) -> None:
    http.wfile.write(b"\0\1rubbish\r\n" * 10)


def headers(http: BaseHTTPRequestHandler, data: bytes) -> None:
    """Some 18 MB of them."""
    http.send_response(200)
    http.flush_headers()
    for number in range(20_000):
        http.wfile.write(b"X-%d: %b\r\n" % (number, b"y" * 900))


def endless(http: BaseHTTPRequestHandler, data: bytes) -> None:
    http.send_response(200)
    http.send_header("Transfer-Encoding", "chunked")
    http.end_headers()
    while http.command == "GET":
        http.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")


def other_length(more: int) -> Say:
    def say(http: BaseHTTPRequestHandler, data: bytes) -> None:
        http.send_response(200)
        http.send_header("Content-Length", str(len(data) + more))
        http.end_headers()
        http.wfile.write(data)

    return say


def whole(http: BaseHTTPRequestHandler, data: bytes) -> None:
    kind = "application/octet-stream"
    with contextlib.suppress(ValueError):
        kind = json.loads(data).get("mediaType", kind)
    says(200, ("Content-Type", kind), body=data)(http, data)


def part_of(data: bytes) -> str:
    if len(data) > 10_000:
        return "layer"
    return "config" if b'"diff_ids"' in data else "manifest"


BEARER = 'Bearer realm="file:///etc/passwd",service="x"'
CASES: list[tuple[str, Say, type[PodError]]] = [
    ("layer", leads_to("file:///etc/passwd"), RegistryUnavailable),
    ("layer", leads_to("http://127.0.0.1:1/x"), RegistryUnavailable),
    ("layer", leads_to("http://[::1"), RegistryUnavailable),
    ("layer", around, RegistryUnavailable),
    *(("layer", says(status), RegistryUnavailable) for status in (204, 206, 307, 400, 418, 451, 503)),
    ("layer", rubbish, RegistryUnavailable),
    ("layer", headers, RegistryUnavailable),
    ("layer", endless, Corrupt),
    ("layer", other_length(5), Corrupt),
    ("layer", other_length(-5), Corrupt),
    *(("manifest", says(status), RegistryUnavailable) for status in (204, 400, 418, 500)),
    ("manifest", leads_to("file:///etc/passwd"), RegistryUnavailable),
    ("manifest", around, RegistryUnavailable),
    ("manifest", says(401, ("WWW-Authenticate", BEARER)), LoginNeeded),
    ("manifest", rubbish, RegistryUnavailable),
    ("manifest", endless, OverLimit),
    ("manifest", says(200, body=b""), Corrupt),
    ("manifest", says(200, body=b"<html>"), Corrupt),
    ("config", says(400), RegistryUnavailable),
    ("config", leads_to("gopher://h/x"), RegistryUnavailable),
    ("config", rubbish, RegistryUnavailable),
    ("config", endless, OverLimit),
    ("config", says(200, body=b"{}"), Corrupt),
]


@pytest.mark.parametrize(("part", "say", "kind"), CASES)
def test_an_answer_of_no_registry_is_reported_in_one_sentence_and_leaves_nothing(
    part: str, say: Say, kind: type[PodError], layout: Layout, store: ImageStore
) -> None:
    def answer(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the client may go at any time
            (say if part_of(data) == part else whole)(http, data)

    top = str(layout.image([BIG])["digest"])
    with OddRegistry(layout, {"1": top}, answer, bare=True) as registry, pytest.raises(kind) as caught:
        pull_blocking(store, f"{registry.host}/a:1", config=Config())
    assert isinstance(caught.value, kind) and f"{registry.host}/a:1" in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    assert (orphans(store), store.list()) == ([], ())


def test_plain_answers_are_an_image(layout: Layout, store: ImageStore) -> None:
    """So that what is refused above is refused for what is odd about it."""

    def answer(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        whole(http, data)

    with OddRegistry(layout, {"1": str(layout.image([BIG])["digest"])}, answer, bare=True) as registry:
        assert pull_blocking(store, f"{registry.host}/a:1", config=Config()).size_bytes > 400_000


def certificate_of(place: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """One of its own making for a host, and its key."""
    certificate, key = place / "certificate.pem", place / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-addext"]
    files = [f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*argv, *files], check=True, stderr=subprocess.DEVNULL, timeout=60 * PATIENCE)
    return certificate, key


@pytest.mark.parametrize("speaks_tls", [True, False])
@pytest.mark.parametrize("insecure", [True, False])
def test_credentials_are_for_a_registry_whose_certificate_is_believed(
    speaks_tls: bool, insecure: bool, tmp_path: Path, layout: Layout, store: ImageStore
) -> None:
    """One without TLS, or with a certificate of its own making, is told that it can't be reached, and sees nothing."""
    certificate, key = certificate_of(tmp_path)

    def answer(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        is_known = "Authorization" in http.headers
        (whole if is_known else says(401, ("WWW-Authenticate", 'Basic realm="x"')))(http, data)

    registry = OddRegistry(layout, {"1": str(layout.image([BIG])["digest"])}, answer, bare=True)
    if speaks_tls:
        registry.use_tls(certificate, key)
    config = Config().but(registries=(RegistryEntry(prefix=registry.host, insecure=insecure),))
    with registry:
        pulling = pull(store, f"{registry.host}/a:1", config=config, auth=Auth("me", "secret"))
        if insecure:
            assert asyncio.run(pulling).size_bytes > 400_000
        else:
            with pytest.raises(RegistryUnavailable, match=registry.host):
                asyncio.run(pulling)
        assert (registry.shown - {""} == {"Basic bWU6c2VjcmV0"}) == insecure
    if not insecure:
        assert registry.shown <= {""} and (orphans(store), store.list()) == ([], ())


@pytest.mark.skipif(not os.access("/etc", os.W_OK), reason="puts a certificate into /etc/containers")
def test_the_authority_of_one_registry_is_believed_from_certs_d(
    tmp_path: Path, layout: Layout, store: ImageStore
) -> None:
    """docs/admin/storage.md has it."""
    certificate, key = certificate_of(tmp_path)

    def answer(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        whole(http, data)

    registry = OddRegistry(layout, {"1": str(layout.image([BIG])["digest"])}, answer, bare=True)
    registry.use_tls(certificate, key)
    config = Config().but(registries=(RegistryEntry(prefix=registry.host),))
    place = Path("/etc/containers/certs.d", registry.host)
    made = [one for one in (place, *place.parents) if not one.exists()]
    place.mkdir(parents=True)
    try:
        with registry:
            with pytest.raises(RegistryUnavailable, match=registry.host):
                pull_blocking(store, f"{registry.host}/a:1", config=config)
            (place / "ca.crt").write_bytes(certificate.read_bytes())
            assert pull_blocking(store, f"{registry.host}/a:1", config=config).size_bytes > 400_000
    finally:
        (place / "ca.crt").unlink(missing_ok=True)
        for one in made:
            with contextlib.suppress(OSError):  # another may be there by now
                one.rmdir()


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500])
@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_a_host_that_a_registry_leads_to_sees_no_credentials_and_is_not_quoted(
    part: str, status: int, layout: Layout, store: ImageStore
) -> None:
    """Another port of the same host is another host. It sees no credentials even if it asks for them, and what it
    answers is in no error.
    """
    errors = json.dumps({"errors": [{"code": "DENIED", "message": "INNER-SECRET"}]}).encode()

    def inner(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        if status == 200:
            return whole(http, data)
        asks = ("WWW-Authenticate", 'Basic realm="INNER-SECRET"')
        body = errors if status in (401, 403) else b"<b>INNER-SECRET</b>"
        return says(status, *([asks] if status == 401 else []), body=body)(http, data)

    with OddRegistry(layout, {}, inner, bare=True) as other:

        def answer(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
            if "Authorization" not in http.headers:
                says(401, ("WWW-Authenticate", 'Basic realm="x"'))(http, data)
            elif part_of(data) == part:
                leads_to(f"http://{other.host}/v2/a/{'manifests' if part == 'manifest' else 'blobs'}/{name}")(
                    http, data
                )
            else:
                whole(http, data)

        registry = OddRegistry(layout, {"1": str(layout.image([BIG])["digest"])}, answer, bare=True)
        registry.asks = other.asks = True
        with registry, contextlib.ExitStack() as refused:
            if status != 200:
                caught = refused.enter_context(pytest.raises(PodError, match=registry.host))
            image = asyncio.run(pull(store, f"{registry.host}/a:1", config=Config(), auth=Auth("me", "secret")))
            assert image.size_bytes > 400_000
        assert (registry.shown, other.shown) == ({"", "Basic bWU6c2VjcmV0"}, {""})
    if status != 200:
        assert "INNER" not in str(caught.value) and isinstance(caught.value, RegistryUnavailable)
        assert (orphans(store), store.list()) == ([], ())
