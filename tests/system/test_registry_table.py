# SPDX-License-Identifier: Apache-2.0
"""What registries do and what users see then: each row of docs/admin/registries.md, against Debian's docker-registry or
a small one that does what its row says. Sentences stand in the page alone.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from cri.config import Config
from cri.config_tables import Registry as Entry
from cri.image import origins
from cri.image import registry as registry_module
from cri.image.origins import Auth
from cri.image.pull import pull
from cri.store.images import ImageStore
from stage1.errors import PodError
from tests.fakes.oci_layout import HOST_ARCH, OTHER_ARCH, Layer, Layout, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.registry import Registry, free_port
from tests.fakes.token_server import TokenServer

from .test_registry import ME_SECRET, orphans
from .test_registry_answers import certificate_of, endless, headers, part_of, rubbish, says, whole

PAGE = Path(__file__).parents[2] / "docs/admin/registries.md"
PULLED = "the image is pulled"
BIG = Layer(tar([file("big", os.urandom(300_000))]))
ME, SECRET, IDENTITY = Auth("me", "secret"), "hunter2", "an-identity"
DOCKER = "application/vnd.docker"
Say = Callable[[BaseHTTPRequestHandler, bytes], None]


class Stage:
    """What a row has, and what it sets up: `name` is pulled by `auth` with `entries`."""

    def __init__(self, place: Path, scope: contextlib.ExitStack) -> None:
        self.place, self.scope, self.layout = place, scope, Layout(place / "layout")
        self.name, self.auth, self.entries = "", None, list[Entry]()
        self.hosts: list[str] = []
        """They stand in sentences as HOST."""

    def odd(
        self,
        say: Say = whole,
        *,
        part: str = "",
        top: str = "",
        tls: tuple[Path, Path] | None = None,
        clients: Path | None = None,
    ) -> OddRegistry:
        """A registry that answers by `say` to requests for a `part`, or for all; the image is its `a:1`."""
        top = top or str(self.layout.image([BIG])["digest"])

        def answer(registry: OddRegistry, http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
            with contextlib.suppress(OSError):  # the client may go at any time
                (say if not part or part_of(data) == part else whole)(http, data)

        registry = OddRegistry(self.layout, {"1": top}, answer, bare=True)
        if tls:
            registry.use_tls(*tls, clients=clients)
        self.scope.enter_context(registry)
        self.name = f"{registry.host}/a:1"
        return registry

    def document(self, document: Any, kind: str) -> str:
        """The digest of a document in the layout."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return str(self.layout.put(data, kind)["digest"])

    def changed(self, change: Callable[[dict[str, Any]], object]) -> str:
        """The digest of the image's manifest after a change."""
        digest = str(self.layout.image([BIG])["digest"])
        made = json.loads((self.layout.path / "blobs/sha256" / digest[7:]).read_bytes())
        change(made)
        return self.document(made, "")

    def real(self, *options: str, **more: Any) -> Registry:
        """Debian's, with the image."""
        registry = self.scope.enter_context(Registry(self.place / "registry", **more))
        self.name = registry.push(self.layout.tag("1", self.layout.image([BIG])), "p/a:1", *options)
        return registry

    def tokens(self, auth: Auth | None) -> TokenServer:
        """Debian's with a server of tokens, as `auth`."""
        who = {"user": "me", "password": SECRET, "identity": IDENTITY}
        tokens = self.scope.enter_context(TokenServer(self.place / "tokens", **who))
        self.real(f"--dest-creds=me:{SECRET}", auth=tokens.auth)
        self.auth = auth
        return tokens

    def behind(self, *mirrors: str, location: str) -> None:
        """Pull it by a name that has mirrors and is elsewhere."""
        self.name = "far.test/a:1"
        self.entries = [Entry(prefix="far.test", mirrors=mirrors, location=location, insecure=True)]


def answers(*says_: Say) -> Say:
    """Each once, and then plain ones."""
    left = list(says_)

    def say(http: BaseHTTPRequestHandler, data: bytes) -> None:
        (left.pop(0) if left else whole)(http, data)

    return say


def other(http: BaseHTTPRequestHandler, data: bytes) -> None:
    """As many bytes, but others."""
    says(200, body=bytes(len(data)))(http, data)


def reset(http: BaseHTTPRequestHandler, data: bytes) -> None:
    http.send_response(200)
    http.send_header("Content-Length", str(len(data)))
    http.end_headers()
    http.wfile.write(data[: len(data) // 2])
    http.wfile.flush()
    http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    http.connection.close()


def hang(http: BaseHTTPRequestHandler, data: bytes) -> None:
    http.send_response(200)
    http.send_header("Content-Length", str(len(data)))
    http.end_headers()
    http.wfile.write(data[: len(data) // 2])
    http.wfile.flush()
    http.rfile.read(1)


def dripping(http: BaseHTTPRequestHandler, data: bytes) -> None:
    http.send_response(200)
    http.send_header("Content-Length", str(len(data)))
    http.end_headers()
    for byte in data:
        http.wfile.write(bytes([byte]))
        http.wfile.flush()
        time.sleep(0.002)


def gone(http: BaseHTTPRequestHandler, data: bytes) -> None:
    """No answer."""


def sized(more: int) -> Say:
    def say(http: BaseHTTPRequestHandler, data: bytes) -> None:
        says(200, body=data + b"x" * more if more > 0 else data[:more])(http, data)

    return say


def wrongly_named(http: BaseHTTPRequestHandler, data: bytes) -> None:
    says(200, ("Docker-Content-Digest", "sha256:" + "0" * 64), body=data)(http, data)


def as_kind(kind: str) -> Say:
    return lambda http, data: says(200, *([("Content-Type", kind)] if kind else []), body=data)(http, data)


def bearer(realm: str) -> Say:
    return says(401, ("WWW-Authenticate", f'Bearer realm="{realm}",service="x"'))


def from_tokens(stage: Stage, say: Say) -> None:
    """A registry whose server of tokens answers by `say`."""
    tokens = stage.scope.enter_context(serving(say))
    stage.hosts.append(tokens)
    stage.odd(bearer(f"http://{tokens}/token"))
    stage.auth = ME


@contextlib.contextmanager
def serving(say: Say, seen: list[str] | None = None) -> Iterator[str]:
    """A server of anything; its host."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if seen is not None:
                seen.append(f"{self.command} {self.path}")
            with contextlib.suppress(OSError):
                say(self, b"")

        do_POST = do_CONNECT = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def proxied(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy by which alone the registry can be reached."""
    registry = stage.odd()

    def forward(http: BaseHTTPRequestHandler, _: bytes) -> None:
        path = urlsplit(http.path).path
        with socket.create_connection(("127.0.0.1", int(registry.host.partition(":")[2]))) as there:
            there.sendall(f"{http.command} {path} HTTP/1.0\r\n\r\n".encode())
            while data := there.recv(65536):
                http.wfile.write(data)
        http.close_connection = True

    host = stage.scope.enter_context(serving(forward))
    monkeypatch.setenv("http_proxy", f"http://{host}")
    stage.behind(location="far.test")


def refusing(stage: Stage, monkeypatch: pytest.MonkeyPatch, *, none: str = "", status: int = 407) -> None:
    """A proxy that lets nobody through."""
    stage.odd()
    host = stage.scope.enter_context(serving(says(status)))
    stage.hosts.append(host)
    monkeypatch.setenv("https_proxy", f"http://{host}")
    monkeypatch.setenv("no_proxy", none)
    stage.name = "far.invalid/a:1"


class Row(NamedTuple):
    """One behaviour; `prepare` sets it up."""

    title: str
    prepare: Callable[..., object]


def _nested(stage: Stage, depth: int) -> None:
    top = stage.layout.image([BIG])
    for _ in range(depth):
        top = {**stage.layout.index([top]), "platform": top["platform"]}
    stage.odd(top=str(top["digest"]))


def _docker(stage: Stage) -> None:
    def change(made: dict[str, Any]) -> None:
        made["mediaType"] = f"{DOCKER}.distribution.manifest.v2+json"
        made["config"]["mediaType"] = f"{DOCKER}.container.image.v1+json"
        made["layers"][0]["mediaType"] = f"{DOCKER}.image.rootfs.diff.tar.gzip"

    entry = {"digest": stage.changed(change), "platform": {"os": "linux", "architecture": HOST_ARCH}}
    kind = f"{DOCKER}.distribution.manifest.list.v2+json"
    stage.odd(top=stage.document({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}, kind))


def _mirrors(stage: Stage, *says_: Say | None, part: str = "", origin: bool = True) -> None:
    """Mirrors that answer so, None for one that is not there; and the registry itself."""
    hosts = [stage.odd(say, part=part).host if say else f"127.0.0.1:{free_port()}" for say in says_]
    stage.behind(*hosts, location=stage.odd().host if origin else f"127.0.0.1:{free_port()}")


def _leads(stage: Stage, say: Say | None, *, part: str = "layer") -> None:
    """To another host, or one that is not there."""
    host = stage.odd(say).host if say else f"127.0.0.1:{free_port()}"
    stage.hosts.append(host)
    stage.odd(lambda http, data: says(307, ("Location", f"http://{host}{http.path}"))(http, data), part=part)


def _secure(stage: Stage, tls: tuple[Path, Path] | None) -> None:
    stage.entries = [Entry(prefix=stage.odd(tls=tls).host)]


def _trusted(stage: Stage, monkeypatch: pytest.MonkeyPatch, address: str = "127.0.0.1") -> None:
    _secure(stage, made := certificate_of(stage.place, address))
    place = stage.place / "certs.d" / stage.name.partition("/")[0]
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(made[0].read_bytes())
    monkeypatch.setattr(origins, "CERTIFICATES", (str(place.parent),))


def _asks(stage: Stage, monkeypatch: pytest.MonkeyPatch, endings: tuple[str, ...]) -> None:
    """A registry that wants to see a client's certificate; `certs.d` has files of it with these endings."""
    made = certificate_of(stage.place)
    host = stage.odd(tls=made, clients=made[0]).host
    stage.entries, place = [Entry(prefix=host)], stage.place / "certs.d" / host
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(made[0].read_bytes())
    for ending in endings:
        (place / f"client.{ending}").write_bytes(made[ending == "key"].read_bytes())
        (place / f"client.{ending}").chmod(0o600)
    monkeypatch.setattr(origins, "CERTIFICATES", (str(place.parent),))


def _tunnelled(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with TLS that only a proxy knows, which wants a password too."""
    port = int(stage.odd(tls=certificate_of(stage.place)).host.partition(":")[2])

    def tunnel(http: BaseHTTPRequestHandler, _: bytes) -> None:
        if http.headers["Proxy-Authorization"] != f"Basic {SHOWN}":
            return says(407)(http, b"")
        http.close_connection = True
        with socket.create_connection(("127.0.0.1", port)) as there:
            http.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_copied, args=(there, http.connection))
            back.start()
            _copied(http.connection, there)
            back.join()
        return None

    host = stage.scope.enter_context(serving(tunnel))
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{host}")
    stage.behind(location="far.test")


def _copied(source: socket.socket, target: socket.socket) -> None:
    """All that comes."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _by_digest(stage: Stage, say: Say, part: str) -> None:
    digest = str(stage.layout.image([BIG])["digest"])
    stage.name = f"{stage.odd(say, part=part).host}/a@{digest}"


def _as(stage: Stage, auth: Auth | None) -> None:
    stage.real("--dest-creds=me:secret", htpasswd=ME_SECRET)
    stage.auth = auth


def _absent(stage: Stage, name: str) -> None:
    stage.name = f"{stage.real().host}/{name}"


def _registry_token(stage: Stage) -> None:
    stage.auth = Auth(registry_token=stage.tokens(None).sign(["repository:p/a:pull"]))


def _hanging(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "STALLED_S", 2.0 * PACE)
    monkeypatch.setattr(registry_module, "CHECK_S", 0.05)
    stage.odd(hang, part="layer")


def _unsized(stage: Stage) -> None:
    stage.odd(top=stage.changed(lambda made: made["layers"][0].pop("size")))


def _typed(stage: Stage, kind: str) -> None:
    stage.odd(top=stage.changed(lambda made: made["layers"][0].update(mediaType=kind)))


def _chart(stage: Stage) -> None:
    stage.odd(
        top=stage.changed(lambda made: made["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json"))
    )


def _named(stage: Stage, name: str) -> None:
    stage.name = name


BASIC = says(401, ("WWW-Authenticate", 'Basic realm="x"'))
SHOWN = base64.b64encode(b"me:secret").decode()
SLOW_DOWN = ("Retry-After", "3600")
ROWS = [
    # who asks
    Row("asks for a password, and there is none", lambda s, _: _as(s, None)),
    Row("asks for a password, and it is wrong", lambda s, _: _as(s, Auth("me", "wrong"))),
    Row("asks for a password, and it is right", lambda s, _: _as(s, ME)),
    Row("has a password for another registry only", lambda s, _: _as(s, ME._replace(server_address="else.io"))),
    Row("has a server of tokens; the password is right", lambda s, _: s.tokens(Auth("me", SECRET))),
    Row("has a server of tokens; there is no password", lambda s, _: s.tokens(None)),
    Row("has a server of tokens; the identity token is right", lambda s, _: s.tokens(Auth(identity_token=IDENTITY))),
    Row("has a server of tokens; the identity token is wrong", lambda s, _: s.tokens(Auth(identity_token="no"))),
    Row("is given a `registry_token` that is right", lambda s, _: _registry_token(s)),
    Row("is given a `registry_token` that is wrong", lambda s, _: s.tokens(Auth(registry_token="no"))),
    Row("forbids it (403)", lambda s, _: s.odd(says(403))),
    Row("asks for credentials of an unknown kind", lambda s, _: s.odd(says(401, ("WWW-Authenticate", "Negotiate")))),
    Row("names a server of tokens that is a file", lambda s, _: s.odd(bearer("file:///etc/passwd"))),
    Row("has a server of tokens that answers HTML", lambda s, _: from_tokens(s, says(200, body=b"<html>"))),
    Row("has a server of tokens that fails (500)", lambda s, _: from_tokens(s, says(500))),
    Row("gives a token with a line feed", lambda s, _: from_tokens(s, says(200, body=b'{"token": "a\\nb"}'))),
    # names
    Row("does not have the repository", lambda s, _: _absent(s, "p/none:1")),
    Row("does not have the tag", lambda s, _: _absent(s, "p/a:none")),
    Row("does not have the digest", lambda s, _: _absent(s, "p/a@sha256:" + "1" * 64)),
    Row("is a host that does not exist", lambda s, _: _named(s, "registry.invalid/a:1")),
    Row("is a port where nobody listens", lambda s, _: _named(s, f"127.0.0.1:{free_port()}/a:1")),
    # mirrors
    Row("has a mirror that can't be reached", lambda s, _: _mirrors(s, None)),
    Row("has mirrors that fail and lack the image", lambda s, _: _mirrors(s, says(500), says(404))),
    Row("has a mirror that sends other bytes for a layer", lambda s, _: _mirrors(s, other, part="layer")),
    Row("has a mirror that breaks off", lambda s, _: _mirrors(s, reset, part="layer")),
    Row("can't be reached, but a mirror can", lambda s, _: _mirrors(s, whole, origin=False)),
    Row("can't be reached, nor can its mirror", lambda s, _: _mirrors(s, None, origin=False)),
    # redirects
    Row("leads to another host for a layer", lambda s, _: _leads(s, whole)),
    Row("leads to another host for the manifest", lambda s, _: _leads(s, whole, part="manifest")),
    Row("leads to another host, which forbids it (403)", lambda s, _: _leads(s, says(403, body=b"SECRET"))),
    Row("leads to another host, which asks for a password", lambda s, _: _leads(s, BASIC)),
    Row("leads to another host, which can't be reached", lambda s, _: _leads(s, None)),
    Row(
        "leads to itself", lambda s, _: s.odd(lambda http, d: says(307, ("Location", http.path))(http, d), part="layer")
    ),
    Row("leads to a file", lambda s, _: s.odd(says(307, ("Location", "file:///etc/passwd")), part="layer")),
    # failures in the middle
    Row("breaks a layer off in the middle, once", lambda s, _: s.odd(answers(reset), part="layer")),
    Row("breaks a layer off in the middle, each time", lambda s, _: s.odd(reset, part="layer")),
    Row("sends a length and less than that", lambda s, _: s.odd(sized(-5), part="layer")),
    Row("hangs up without an answer", lambda s, _: s.odd(gone)),
    Row("fails once (503)", lambda s, _: s.odd(answers(says(503)))),
    Row("fails each time (500)", lambda s, _: s.odd(says(500))),
    Row("fails for a layer each time (502)", lambda s, _: s.odd(says(502), part="layer")),
    Row("limits requests for a second (429)", lambda s, _: s.odd(answers(says(429, ("Retry-After", "1"))))),
    Row("limits requests for an hour (429)", lambda s, _: s.odd(says(429, SLOW_DOWN))),
    Row("limits requests and does not say how long (429)", lambda s, _: s.odd(says(429), part="layer")),
    Row("lacks a layer of its image (404)", lambda s, _: s.odd(says(404), part="layer")),
    Row("answers with a status of no registry (418)", lambda s, _: s.odd(says(418), part="manifest")),
    Row("answers what is no HTTP", lambda s, _: s.odd(rubbish)),
    # slow and endless streams
    Row("sends half a layer and then nothing", _hanging),
    Row("sends the config byte by byte", lambda s, _: s.odd(dripping, part="config")),
    Row("sends a layer without an end", lambda s, _: s.odd(endless, part="layer")),
    Row("sends a manifest without an end", lambda s, _: s.odd(endless, part="manifest")),
    Row("sends a config without an end", lambda s, _: s.odd(endless, part="config")),
    Row("sends headers without an end", lambda s, _: s.odd(headers, part="layer")),
    # digests and sizes
    Row("sends another manifest than the digest's", lambda s, _: _by_digest(s, says(200, body=b"{}"), "manifest")),
    Row("sends another config than the manifest's", lambda s, _: s.odd(says(200, body=b"{}"), part="config")),
    Row("sends other bytes for a layer", lambda s, _: s.odd(other, part="layer")),
    Row("sends more of a layer than the manifest says", lambda s, _: s.odd(sized(5), part="layer")),
    Row(
        "names a wrong digest in its headers",
        lambda s, _: s.odd(wrongly_named),
    ),
    Row("says no size of a layer", lambda s, _: _unsized(s)),
    # media types
    Row("sends no Content-Type", lambda s, _: s.odd(as_kind(""))),
    Row("sends a Content-Type of no manifest", lambda s, _: s.odd(as_kind("text/plain"))),
    Row("compresses answers once more", lambda s, _: s.odd(says(200, ("Content-Encoding", "gzip")), part="layer")),
    Row("has a manifest that is HTML", lambda s, _: s.odd(says(200, body=b"<html>"), part="manifest")),
    Row("has an empty manifest", lambda s, _: s.odd(says(200, body=b""), part="manifest")),
    Row("has a manifest of schema 1", lambda s, _: s.odd(top=s.changed(lambda made: made.update(schemaVersion=1)))),
    Row("has a chart of Helm", lambda s, _: _chart(s)),
    Row("has a layer of an unknown type", lambda s, _: _typed(s, "application/x-rar")),
    Row("has a list of Docker's manifests", lambda s, _: _docker(s)),
    Row("has an index in an index", lambda s, _: _nested(s, 2)),
    Row("has indexes in indexes, too deep", lambda s, _: _nested(s, 5)),
    Row(
        "has an index for other platforms",
        lambda s, _: s.odd(top=str(s.layout.index([s.layout.image([BIG], arch=OTHER_ARCH)])["digest"])),
    ),
    # certificates and proxies
    Row("has a certificate of its own making", lambda s, _: _secure(s, certificate_of(s.place))),
    Row("has a certificate of an authority in `certs.d`", _trusted),
    Row("has a certificate for another host", lambda s, m: _trusted(s, m, "127.0.0.9")),
    Row("asks for a client certificate, which is in `certs.d`", lambda s, m: _asks(s, m, ("cert", "key"))),
    Row("asks for a client certificate, whose key is missing", lambda s, m: _asks(s, m, ("cert",))),
    Row("speaks no TLS, and is not `insecure`", lambda s, _: _secure(s, None)),
    Row("is behind a proxy", proxied),
    Row("is behind a proxy, and speaks TLS", _tunnelled),
    Row("is behind a proxy that wants a password (407)", refusing),
    Row(
        "is behind a proxy that can't be reached",
        lambda s, m: (refusing(s, m), _nowhere(s, m)),
    ),
    Row("is behind a proxy of another kind", lambda s, m: (refusing(s, m), m.setenv("https_proxy", "socks5://p:1"))),
    Row("is in NO_PROXY", lambda s, m: refusing(s, m, none="far.invalid")),
]


def _nowhere(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.hosts.append(host := f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("https_proxy", f"http://{host}")


def told(text: str, stage: Stage) -> str:
    """A sentence without what differs from run to run."""
    for host in stage.hosts:
        text = text.replace(host, "HOST")
    text = text.replace(stage.name, "NAME").replace(HOST_ARCH, "amd64")
    text = text.replace(OTHER_ARCH, "arm64") if HOST_ARCH == "amd64" else text
    return re.sub(r"\d{4,}", "N", re.sub(r"sha256:[0-9a-f]{64}", "DIGEST", text)).replace(
        f"{2.0 * PACE:.0f} seconds", "N seconds"
    )


def outcome(row: Row, place: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the page says of a row."""
    for name in (*origins.PROXIES, "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with contextlib.ExitStack() as scope:
        row.prepare(stage := Stage(place, scope), monkeypatch)
        config = Config().but(registries=tuple(stage.entries))
        try:
            image = asyncio.run(pull(store, stage.name, config=config, auth=stage.auth))
        except PodError as caught:
            failure = caught
        else:
            assert image.size_bytes > 300_000 and orphans(store) == []
            assert (image.repo_tags or image.repo_digests)[0] == stage.name
            return PULLED
    sentence = str(failure)
    assert sentence.isprintable() and len(sentence) < 700 and "SECRET" not in sentence
    assert (orphans(store), store.list()) == ([], ())
    return f"{failure.grpc_code}: {told(sentence, stage)}"


def rows_of_the_page() -> dict[str, str]:
    """What users see, by what a registry does."""
    lines = [
        line.strip("| \n").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    return {cells[0]: cells[1] for cells in lines if len(cells) == 2}


def test_the_page_has_all_rows() -> None:
    titles = [row.title for row in ROWS]
    assert [title for title in rows_of_the_page() if title in titles] == titles and len(titles) >= 40


@pytest.mark.timeout(120 * PATIENCE)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_users_see_what_the_page_says(
    row: Row, tmp_path: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome(row, tmp_path, store, monkeypatch) == rows_of_the_page()[row.title]
