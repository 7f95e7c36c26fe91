# SPDX-License-Identifier: Apache-2.0
"""A registry on loopback that serves an OCI layout and does what a test wants: waits, stops, lies, counts.

For what Debian's docker-registry (tests/fakes/registry.py) never does.
"""

import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fakes.oci_layout import Layout, digest

Answer = Callable[["OddRegistry", BaseHTTPRequestHandler, str, bytes], None]


def plainly(registry: "OddRegistry", http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
    """The blob, as it is."""
    http.wfile.write(data)


def half_then_hang(registry: "OddRegistry", http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
    """Half of a large blob, and then nothing until the registry ends."""
    if len(data) < 10_000:
        return plainly(registry, http, name, data)
    http.wfile.write(data[: len(data) // 2])
    http.wfile.flush()
    registry.hangs.set()
    registry.ends.wait()
    return None


def half_then_die(registry: "OddRegistry", http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
    """Half of a large blob, and after it the registry is gone."""
    if len(data) < 10_000:
        return plainly(registry, http, name, data)
    http.wfile.write(data[: len(data) // 2])
    registry.server.socket.close()
    return None


def other_bytes(registry: "OddRegistry", http: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
    """As many bytes, but not those of the digest, of every blob that is large."""
    http.wfile.write(data if len(data) < 10_000 else bytes(len(data)))


class OddRegistry:
    """Use it in a `with`. `tops` are the digests that tags stand for; `gets` counts the blobs that were asked for,
    and `shown` are the credentials that were.

    With `lies`, manifests are others than their digests say. One that is `bare` has `answer` say all of each answer,
    manifests' too, with headers.
    """

    def __init__(
        self, layout: Layout, tops: dict[str, str], answer: Answer = plainly, *, lies: bool = False, bare: bool = False
    ) -> None:
        self.gets: Counter[str] = Counter()
        self._bare = bare
        self.shown: set[str] = set()
        self.asks = False
        """Whether it asks for credentials before anything else."""
        self.hangs, self.ends = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(layout.path, tops, answer, lies=lies))
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def _handler(self, path: Path, tops: dict[str, str], answer: Answer, *, lies: bool) -> Any:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def do_GET(self) -> None:
                """GET, and HEAD without a body."""
                registry.shown.add(self.headers.get("Authorization", ""))
                _, _, rest = self.path.partition("/v2/")
                kind, _, name = rest.rpartition("/")
                if not rest:
                    if registry.asks and "Authorization" not in self.headers:
                        self.send_response(401)
                        self.send_header("WWW-Authenticate", 'Basic realm="x"')
                        self.send_header("Content-Length", "0")
                        return self.end_headers()
                    return self._say(b"{}", "application/json")
                expected = name if name.startswith("sha256:") else tops.get(name, "")
                file = path / "blobs" / "sha256" / expected.removeprefix("sha256:")
                if not expected or not file.exists():
                    return self.send_error(404)
                data = file.read_bytes()
                if registry._bare:
                    self.close_connection = True
                    return answer(registry, self, expected, data)
                if kind.endswith("manifests"):
                    data = data.replace(b'"schemaVersion"', b' "schemaVersion"') if lies else data
                    return self._say(data, json.loads(data).get("mediaType"))
                registry.gets[expected] += 1
                self._head(len(data), "application/octet-stream", expected)
                return answer(registry, self, expected, data)

            do_HEAD = do_GET

            def _head(self, size: int, kind: str, name: str) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.send_header("Content-Type", kind)
                self.send_header("Docker-Content-Digest", name)
                self.end_headers()

            def _say(self, data: bytes, kind: str) -> None:
                self._head(len(data), kind, digest(data))
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        return Handler

    def use_tls(self, certificate: Path, key: Path, *, clients: Path | None = None) -> None:
        """Speak TLS only, by this certificate, and with clients only whose certificate is one of `clients`. Before the
        block.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def __enter__(self) -> "OddRegistry":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self) -> None:
        try:
            self.server.serve_forever(poll_interval=0.05)
        except (OSError, ValueError):
            return  # it closed its socket itself

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.server.shutdown()
        self.server.server_close()
