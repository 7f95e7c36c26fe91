# SPDX-License-Identifier: Apache-2.0
"""The server that hands out tokens for a docker-registry (distribution's token specification), on loopback.

A client shows either a user with a password (GET) or an identity token (POST), and gets a signed token for what it
asks.
"""

import base64
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

REALM = "auth: {{token: {{realm: {realm}, service: tests, issuer: tests, rootcertbundle: {certificate}}}}}"


class TokenServer:
    """Use it in a `with`; `auth` is what the registry's configuration needs."""

    def __init__(self, directory: Path, *, user: str, password: str, identity: str) -> None:
        directory.mkdir()
        self._key, self._certificate = directory / "key.pem", directory / "certificate.pem"
        files = ["-keyout", str(self._key), "-out", str(self._certificate)]
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests", *files]
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL, timeout=60)
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._identity = identity
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self.auth = REALM.format(realm=realm, certificate=self._certificate)

    def _handler(self) -> Any:
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            """One request for a token."""

            def do_GET(self) -> None:
                """A token by user and password; without them, one that allows nothing."""
                asked = parse_qs(urlsplit(self.path).query)
                self._answer(asked, may=self.headers.get("Authorization") == tokens._basic, key="token")

            def do_POST(self) -> None:
                """By an identity token."""
                asked = parse_qs(self._body().decode())
                may = asked.get("grant_type") == ["refresh_token"] and asked.get("refresh_token") == [tokens._identity]
                self._answer(asked, may=may, key="access_token")

            def _body(self) -> bytes:
                """The body, in one piece or in chunks."""
                if length := self.headers.get("Content-Length"):
                    return self.rfile.read(int(length))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
                return body

            def _answer(self, asked: dict[str, list[str]], *, may: bool, key: str) -> None:
                if not may and "Authorization" not in self.headers and self.command == "GET":
                    return self._say(200, {key: tokens.sign([])})
                if not may:
                    return self._say(401, {"details": "incorrect username or password"})
                return self._say(200, {key: tokens.sign(asked.get("scope", []))})

            def _say(self, code: int, document: dict[str, str]) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        return Handler

    def sign(self, scopes: list[str]) -> str:
        """A JSON web token that allows `scopes`, each TYPE:NAME:ACTION[,ACTION]."""
        der = base64.b64encode(subprocess.run(
            ["openssl", "x509", "-in", self._certificate, "-outform", "der"], check=True, stdout=-1, timeout=60
        ).stdout).decode()  # fmt: skip
        access = []
        for kind, rest in (scope.split(":", 1) for scope in scopes):
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "tests", "sub": "me", "aud": "tests", "exp": now + 600, "nbf": now - 60}
        claims |= {"iat": now, "jti": "1"}
        parts = [{"typ": "JWT", "alg": "RS256", "x5c": [der]}, {**claims, "access": access}]
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        argv = ["openssl", "dgst", "-sha256", "-sign", self._key]
        signature = subprocess.run(argv, check=True, input=text.encode(), stdout=-1, timeout=60).stdout
        return f"{text}.{_base64(signature)}"

    def __enter__(self) -> "TokenServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
