# SPDX-License-Identifier: Apache-2.0
"""The client of registries, by the protocol of the OCI distribution-spec: what runs in the confined process that has
the network and one user's credentials for one image.

`registry` starts it, and tells the user what it reports. It must not parse a document or look into a layer. A request
goes to each of the image's `places` (`origins.question`) until one gives what is asked for; credentials are shown to
the registry itself and to the server of tokens that it names, never to a host that it redirects to.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import functools
import hashlib
import http.client
import ipaddress
import json
import os
import queue
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

CONNECT_S, ANSWER_S = 10.0, 30.0
"""For a connection, and for each piece of an answer."""
TRIES, PAUSE_S, MOST_PAUSE_S = 3, 0.5, 60.0
"""How often a request is made that fails for a reason that may pass, the first pause, and the longest that a registry
may ask for; each piece that arrives of a blob gives it all tries again."""
_CHUNK_BYTES, _TOKEN_BYTES, _REPORT_BYTES, _REPORT_S = 1 << 18, 64 << 10, 1 << 20, 0.2
_MOST_DETOURS = 5
_DETOURS = {301, 302, 303, 307, 308}
_NONE = (404, 410)
_HOSTS = {"docker.io": "registry-1.docker.io"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1", "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2",
    )
)  # fmt: skip
_SAFE = ssl.create_default_context()
_ANY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_ANY.check_hostname, _ANY.verify_mode = False, ssl.CERT_NONE
"""TLS contexts with and, for a registry that is configured as insecure, without verification. Both are made once, by
who forks this process: reading all authorities takes longer than a request.
"""


class Failed(Exception):
    """A request failed. `kind` is one of `registry`'s; `detail` is one of `origins.REASONS` or a status."""

    def __init__(self, kind: str, host: str, detail: str | int = "", *, again_s: float = -1.0) -> None:
        super().__init__(kind, host, detail)
        self.kind, self.host, self.detail = kind, host, detail
        self.again_s = again_s
        """After which time it may succeed; 0: at some time, negative: never."""


def job(arguments: tuple[str, ...], data: bytes) -> Any:
    """`data` is the question of `origins` as JSON. `arguments`: digest REFERENCE, manifest or blob REFERENCE MOST,
    login, or blobs SIZES THREADS. The answer is the digest, the document in base64, or nothing; and before that of
    blobs, which are files in `out` named by their digests in hex, come events: how much there is of one, and that it
    is whole. A failure is an answer too: its kind, the host, and a detail.
    """
    kind, *rest = arguments
    try:
        if data not in _known:
            _known.clear()
            _known[data] = Registry(json.loads(data))
        registry = _known[data]
        if kind == "blobs":
            return _reported(registry, json.loads(rest[0]), threads=int(rest[1]))
        if kind == "digest":
            return registry.digest(rest[0])
        if kind == "login":
            return registry.log_in()
        return base64.b64encode(registry.document(kind, rest[0], most_bytes=int(rest[1]))).decode()
    except Failed as failed:
        return _told(failed)


_known: dict[bytes, Registry] = {}
"""The registry that was asked last, by its question."""


def _told(failed: Failed) -> dict[str, Any]:
    return {"failed": [failed.kind, failed.host, failed.detail, failed.again_s]}


def _reported(registry: Registry, sizes: dict[str, int], *, threads: int) -> Generator[list[Any], None, Any]:
    """Bring the blobs, with some threads; the first failure ends all."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    todo: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for item in sizes.items():
        todo.put(item)

    def tell(digest: str, count: int) -> None:
        events.put(["bytes", digest, count])

    def work() -> None:
        try:
            while True:
                digest, size = todo.get_nowait()
                registry.bring(digest, size, report=functools.partial(tell, digest))
                events.put(["whole", digest])
        except queue.Empty:
            events.put(None)
        except Failed as failed:
            events.put(failed)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            events.put(Failed("full", "") if full else error)
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            events.put(error)

    started = 0
    for _ in range(max(1, min(threads, len(sizes)))):
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:
            if not started:
                raise
            break  # no more threads: those there are do it
        started += 1
    while started:
        event = events.get()
        if isinstance(event, Failed):
            return _told(event)
        if isinstance(event, BaseException):
            raise event
        if event is None:
            started -= 1
        else:
            yield event
    return None


class Registry:
    """All places of one image."""

    def __init__(self, question: dict[str, Any]) -> None:
        self._places = [Place(place, question) for place in question["places"]]
        self._at = 0
        """The first place that has not failed."""

    def digest(self, reference: str) -> str:
        """The digest that the registry names for a tag or digest; empty if it names none."""

        def ask(place: Place) -> str:
            with place.answer("HEAD", f"manifests/{reference}") as response:
                named = str(response.headers.get("Docker-Content-Digest") or "")
            return named if _DIGEST.fullmatch(named) else ""

        return str(self._first(ask))

    def document(self, kind: str, reference: str, *, most_bytes: int) -> bytes:
        """A manifest or a blob that is a document. It is not parsed: it may contain anything."""

        def ask(place: Place) -> bytes:
            with place.answer("GET", f"{kind}s/{reference}") as response:
                data = response.read(most_bytes + 1)
                if len(data) > most_bytes:
                    raise Failed("large", place.host)
                if response.length:
                    raise http.client.IncompleteRead(data, response.length)
            self._require(reference, hashlib.sha256(data).hexdigest(), place=place)
            return data

        return bytes(self._first(ask))

    def log_in(self) -> None:
        """Have the registry check the credentials."""
        self._places[-1].tried(_welcomed)

    def bring(self, digest: str, size: int, *, report: Callable[[int], object]) -> None:
        """Bring a blob of `size` bytes, 0 if that is not known, into a file, which has its name once it is whole."""
        path = f"out/{digest.partition(':')[2]}"

        def ask(place: Place) -> None:
            with open(f"{path}.part", "wb+", buffering=0) as file:
                place.bring(digest, size, file=file, report=report)
                if len(self._places) > 1:
                    file.seek(0)
                    self._require(digest, hashlib.file_digest(file, "sha256").hexdigest(), place=place)

        self._first(ask)
        os.rename(f"{path}.part", path)

    def _require(self, digest: str, actual: str, *, place: Place) -> None:
        """Raise Failed for other content, if another place may have the right one; else the daemon is the first to
        compare it.
        """
        if place is not self._places[-1] and _DIGEST.fullmatch(digest) and digest != f"sha256:{actual}":
            raise Failed("damaged", place.host)

    def _first(self, ask: Callable[[Place], Any]) -> Any:
        """The answer of the first place that has one; that has failed once is not asked again. Raises what the last
        does.
        """
        for place in self._places[self._at : -1]:
            with contextlib.suppress(Failed):
                return place.tried(ask, tries=1)
            self._at = max(self._at, self._places.index(place) + 1)
        return self._places[-1].tried(ask)


def _welcomed(place: Place) -> None:
    with place.answer("GET", "") as response:
        response.read(_TOKEN_BYTES)


class Place:
    """A repository at one host."""

    def __init__(self, place: dict[str, Any], question: dict[str, Any]) -> None:
        self.host, self._path, self._is_insecure = place["host"], place["path"], place["insecure"]
        self._auth = question["auth"] if place["known"] else {}
        self._proxies = question["proxies"]
        self._granted = f"Bearer {self._auth['token']}" if "token" in self._auth else ""
        """The header that has let us in before."""
        self._scheme = ""
        """How it was spoken to before."""
        authorities = place["ca"] + question["authorities"]
        self._context = self._other_context = self._context_of(authorities)
        if place["certificate"]:
            self._context = _with_certificate(self._context_of(authorities, is_own=True), place)

    def _context_of(self, authorities: str, *, is_own: bool = False) -> ssl.SSLContext:
        if not (is_own or (authorities and not self._is_insecure)):
            return _ANY if self._is_insecure else _SAFE
        context = ssl.create_default_context()
        if self._is_insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif authorities:
            with contextlib.suppress(ssl.SSLError):  # none of them is one; the others count
                context.load_verify_locations(cadata=authorities)
        return context

    def tried(self, ask: Callable[[Place], Any], *, tries: int = TRIES) -> Any:
        """`ask`, again after a while if it fails for a reason that may pass. Raises Failed."""
        for number in range(1, tries + 1):
            try:
                with self.faults():
                    return ask(self)
            except Failed as failed:
                if failed.again_s < 0 or failed.again_s > MOST_PAUSE_S or number == tries:
                    raise
                time.sleep(failed.again_s or PAUSE_S * 2 ** (number - 1))
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def faults(self, host: str = "") -> Iterator[None]:
        """Raise Failed for what a connection, TLS or HTTP fails with."""
        try:
            yield
        except Failed:
            raise
        except OSError as error:
            if error.errno in _OF_FILES and not isinstance(error, ssl.SSLError):
                raise
            raise _fault(error, host or self.host) from None
        except (http.client.HTTPException, ValueError, RecursionError) as error:
            raise _fault(error, host or self.host) from None

    def bring(self, digest: str, size: int, *, file: Any, report: Callable[[int], object]) -> None:
        """Write a blob to `file`. When it breaks off it goes on where it was; that is tried as often as it helps."""
        tried = 0
        while True:
            have = file.tell()
            try:
                with self.faults():
                    return self._receive(digest, size, file=file, report=report)
            except Failed as failed:
                tried = 1 if file.tell() > have else tried + 1
                if failed.again_s < 0 or failed.again_s > MOST_PAUSE_S or tried >= TRIES:
                    raise
                time.sleep(failed.again_s or PAUSE_S * 2 ** (tried - 1))

    def _receive(self, digest: str, size: int, *, file: Any, report: Callable[[int], object]) -> None:
        have, reported, reported_s = file.tell(), 0, 0.0
        with self.answer("GET", f"blobs/{digest}", at=have) as response:
            if response.status == 200 and have:  # it gives no parts
                have = file.seek(0)
                file.truncate()
            elif response.status != 200 and _begin(response) != have:
                raise Failed("odd", self.host, "a part that was not asked for")
            if size and response.length not in (None, size - have):
                raise Failed("size", self.host)
            while data := response.read1(_CHUNK_BYTES):
                have += len(data)
                if size and have > size:
                    raise Failed("size", self.host)
                piece = memoryview(data)
                while piece:
                    piece = piece[file.write(piece) :]
                if have - reported >= _REPORT_BYTES or time.monotonic() - reported_s >= _REPORT_S:
                    reported, reported_s = have, time.monotonic()
                    report(have)
            if response.length or have < size:
                raise Failed("unreachable", self.host, "the connection ended early", again_s=0.0)
        report(have)

    @contextlib.contextmanager
    def answer(self, method: str, what: str, *, at: int = 0) -> Iterator[http.client.HTTPResponse]:
        """The answer with the status 200, or 206 for a part from `at` on, before its body is read. An insecure registry
        without TLS is asked without it. Raises Failed, and what `faults` takes.
        """
        call = self._spoken(method, what, at=at)
        try:
            yield call.response
            if method == "HEAD":
                call.response.read()
        except BaseException:
            call.close()
            raise
        call.give_back()

    def _spoken(self, method: str, what: str, *, at: int) -> _Call:
        """The call with TLS, or if that fails for an insecure registry, without."""
        if self._is_insecure and not self._scheme:
            try:
                with self.faults():
                    call = self._followed(method, "https", what=what, at=at)
                self._scheme = "https"
                return call
            except Failed as failed:
                if failed.kind not in ("tls", "unreachable"):
                    raise
            call = self._followed(method, "http", what=what, at=at)
            self._scheme = "http"
            return call
        return self._followed(method, self._scheme or "https", what=what, at=at)

    def _followed(self, method: str, scheme: str, *, what: str, at: int) -> _Call:
        """The answer of the registry, or of a host that it redirects to: another port is another host. A redirect from
        TLS to plain HTTP is refused.
        """
        path = f"{self._path}/{what}" if what else ""
        start = url = f"{scheme}://{_HOSTS.get(self.host, self.host)}/v2/{path}"
        headers = {"Accept": _ACCEPT if "manifests/" in what else "*/*"} | ({"Range": f"bytes={at}-"} if at else {})
        was_refused = False
        is_own = True
        for _ in range(_MOST_DETOURS + 2):
            is_own = _is_same(url, start)
            with self._misled(url, unless=is_own):
                shown = {"Authorization": self._granted} if is_own and self._granted else {}
                call = self._call(method, url, headers=headers | shown, is_own=is_own)
            status, given = call.response.status, call.response.headers
            if status in (200, 206) and (status == 200 or at):
                if given.get("Content-Encoding", "identity") != "identity":
                    raise Failed("odd", self.host, "a compressed answer")
                return call
            call.close()
            if status in _DETOURS and (place := _detour(url, given.get("Location", ""))):
                url = place
            elif status == 416 and at:
                at, headers = 0, {"Accept": "*/*"}
            elif status == 401 and is_own and not was_refused and (header := self._authorized(given, scheme)):
                was_refused, self._granted = True, header
            elif not is_own:
                raise Failed("misled", _netloc(url), again_s=_again_s(status, given))
            else:
                raise _refused(status, given, host=self.host, is_blob=what.startswith("blobs/"))
        raise Failed("odd" if is_own else "misled", _netloc(url), "redirects without an end")

    @contextlib.contextmanager
    def _misled(self, url: str, *, unless: bool) -> Iterator[None]:
        """What fails at another host is told as that."""
        try:
            with self.faults(_netloc(url)):
                yield
        except Failed as failed:
            if unless or failed.kind == "proxy":
                raise
            raise Failed("misled", _netloc(url), again_s=failed.again_s) from None

    def _authorized(self, given: http.client.HTTPMessage, scheme: str) -> str:
        """The header that the registry asks for; empty where there is none. Raises Failed."""
        offers = {}
        for offer in given.get_all("WWW-Authenticate", []):
            kind, _, rest = str(offer).strip().partition(" ")
            offers[kind.lower()] = rest
        basic = f"Basic {self._auth['basic']}" if "basic" in self._auth else ""
        if "bearer" not in offers:
            return basic if "basic" in offers else ""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', offers["bearer"]))
        realm = fields.get("realm", "")
        if urllib.parse.urlsplit(realm).scheme not in {"https", scheme}:
            raise Failed("login", self.host, "credentials of a kind that is not known")
        asked = {name: fields[name] for name in ("service", "scope") if name in fields}
        headers, body = {"Authorization": basic} if basic else {}, ""
        method, url = "GET", f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(asked)}"
        if "identity" in self._auth:
            asked |= {"grant_type": "refresh_token", "refresh_token": self._auth["identity"], "client_id": "clearpod"}
            method, url, body = "POST", realm, urllib.parse.urlencode(asked)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        is_own = _is_same(url, f"{scheme}://{_HOSTS.get(self.host, self.host)}")
        with self.faults(_netloc(url)):
            call = self._call(method, url, headers=headers, is_own=is_own, body=body)
            try:
                if call.response.status != 200:
                    raise _refused(call.response.status, call.response.headers, host=_netloc(url))
                text = call.response.read(_TOKEN_BYTES)
            finally:
                call.close()
        document: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(text)
        token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else ""
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise Failed("login", _netloc(url), "a token that is none")
        return f"Bearer {token}"

    def _call(self, method: str, url: str, *, headers: dict[str, str], is_own: bool, body: str = "") -> _Call:
        """One request by one connection, which may be one that was used before: if that has ended, by a new one."""
        parts = urllib.parse.urlsplit(url)
        key = (parts.scheme, parts.netloc, is_own)
        proxy = _proxy(parts.scheme, parts.hostname or "", port=parts.port, proxies=self._proxies)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        if proxy and parts.scheme == "http":
            target = urllib.parse.urlunsplit((*parts[:4], ""))
            headers = headers | _of_proxy(proxy)
        for connection in (_idle_of(key), None):
            if is_new := connection is None:
                connection = self._connected(parts, proxy, is_own=is_own)
            try:
                connection.request(method, target, body or None, {"User-Agent": "clearpod", **headers})
                connection.sock.settimeout(ANSWER_S)
                return _Call(connection, connection.getresponse(), key)
            except BaseException as error:
                connection.close()
                if is_new or not isinstance(error, (ConnectionError, http.client.HTTPException)):
                    raise
        raise AssertionError("unreachable")

    def _connected(
        self, parts: urllib.parse.SplitResult, proxy: urllib.parse.SplitResult | None, *, is_own: bool
    ) -> http.client.HTTPConnection:
        if parts.scheme not in ("http", "https"):
            raise http.client.InvalidURL(parts.scheme)
        netloc = (proxy or parts).netloc.rpartition("@")[2]
        connection = http.client.HTTPConnection(netloc, timeout=CONNECT_S)
        if parts.scheme == "https":
            context = self._context if is_own else self._other_context
            port = None if ":" in netloc.rpartition("]")[2] else 80 if proxy else 443
            connection = http.client.HTTPSConnection(netloc, port, timeout=CONNECT_S, context=context)
            if proxy:
                connection.set_tunnel(parts.hostname or "", parts.port or 443, headers=_of_proxy(proxy))
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            if proxy and not isinstance(error, ssl.SSLError):
                status = re.search(r"failed: (\d{3})", str(error))
                raise Failed("proxy", netloc, int(status[1]) if status else _fault(error, "").detail) from None
            raise
        return connection


def _with_certificate(context: ssl.SSLContext, place: dict[str, Any]) -> ssl.SSLContext:
    """The context with a client's certificate, which is in no file that this process could read."""
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, f"{place['certificate']}{place['key']}".encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except (OSError, ssl.SSLError):
        raise Failed("tls", place["host"], "a client certificate that can't be used") from None
    finally:
        os.close(fd)
    return context


class _Call(NamedTuple):
    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    key: tuple[str, str, bool]

    def give_back(self) -> None:
        """Keep the connection for another request, if the answer was read and the server keeps it."""
        if self.connection.sock and (self.response.isclosed() or self.response.length == 0):
            self.response.close()
            _idle.setdefault(self.key, []).append(self.connection)
        else:
            self.close()

    def close(self) -> None:
        """Whatever is left of it: one that ends with its answer belongs to the answer alone."""
        self.response.close()
        self.connection.close()


_idle: dict[tuple[str, str, bool], list[http.client.HTTPConnection]] = {}


def _idle_of(key: tuple[str, str, bool]) -> http.client.HTTPConnection | None:
    try:
        return _idle[key].pop()
    except (KeyError, IndexError):
        return None


def _refused(status: int, given: http.client.HTTPMessage, *, host: str, is_blob: bool = False) -> Failed:
    if status in (401, 403):
        return Failed("login", host, status)
    if status in _NONE:
        return Failed("damaged" if is_blob else "absent", host, status)
    again_s = _again_s(status, given)
    return Failed("busy" if status == 429 else "failing" if again_s >= 0 else "odd", host, status, again_s=again_s)


def _again_s(status: int, given: http.client.HTTPMessage) -> float:
    """After which time a request with this answer may succeed: Retry-After has seconds or a date."""
    if status not in (408, 425, 429, 500, 502, 503, 504):
        return -1.0
    text = str(given.get("Retry-After", ""))
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), 1e9)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


def _begin(response: http.client.HTTPResponse) -> int:
    """Where the part begins that an answer has; -1 without one."""
    begins = re.match(r"bytes (\d{1,15})-", str(response.headers.get("Content-Range", "")))
    return int(begins[1]) if begins else -1


def _netloc(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def _detour(url: str, location: str) -> str:
    """The target of a redirect from `url`; empty if there is none, or if it would drop TLS."""
    with contextlib.suppress(ValueError):
        place = urllib.parse.urljoin(url, location)
        known = {"https", urllib.parse.urlsplit(url).scheme}
        return place if location and urllib.parse.urlsplit(place).scheme in known else ""
    return ""


def _is_same(url: str, other: str) -> bool:
    return urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(other)[:2]


_OF_FILES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOENT, errno.EACCES, errno.EMFILE}
_OF_TLS = {
    10: "the certificate has expired",
    **dict.fromkeys((18, 19, 20, 21), "the certificate is of an unknown authority"),
    **dict.fromkeys((62, 63, 64), "the certificate is for another host"),
}
"""Codes of X509_STORE_CTX_get_error(3)."""


def _fault(error: BaseException, host: str) -> Failed:
    """What failed: `error` is one of a socket, of TLS, or of HTTP."""
    match error:
        case ssl.SSLCertVerificationError():
            return Failed("tls", host, _OF_TLS.get(error.verify_code, "it is no valid TLS"))
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Failed("unreachable", host, "the connection ended early", again_s=0.0)
        case ssl.SSLError():
            if error.reason in ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"):
                return Failed("tls", host, "it asks for a client certificate")
            is_plain = error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG",
                                        "RECORD_LAYER_FAILURE")  # fmt: skip
            return Failed("tls", host, "it speaks no TLS" if is_plain else "it is no valid TLS")
        case TimeoutError():
            return Failed("unreachable", host, "no answer in time", again_s=0.0)
        case socket.gaierror():
            return Failed("unreachable", host, "no such host")
        case ConnectionRefusedError():
            return Failed("unreachable", host, "connection refused")
        case ConnectionError() | http.client.IncompleteRead():
            return Failed("unreachable", host, "the connection ended early", again_s=0.0)
        case OSError():
            return Failed("unreachable", host, "no route to it")
    return Failed("odd", host, "an answer that is no HTTP")


def _proxy(scheme: str, host: str, *, port: int | None, proxies: list[str]) -> urllib.parse.SplitResult | None:
    """The proxy for a host; never for this one. NO_PROXY has names, which cover what is below them, addresses,
    networks, each with a port or without, or a star.
    """
    secure, plain, none = proxies
    text = secure if scheme == "https" else plain
    if not text or host == "localhost" or _is_covered(host, port or (443 if scheme == "https" else 80), none=none):
        return None
    proxy = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise Failed("proxy", proxy.netloc.rpartition("@")[2], "only http:// is supported")
    return proxy


def _is_covered(host: str, port: int, *, none: str) -> bool:
    address = None
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
    if address and address.is_loopback:
        return True
    for word in none.replace(" ", ",").lower().split(","):
        name, colon, number = word.rpartition(":") if re.search(r"[^:]:\d+$|\]:\d+$", word) else (word, "", "")
        if not name or (colon and int(number) != port):
            continue
        with contextlib.suppress(ValueError):
            if address and address in ipaddress.ip_network(name.strip("[]"), strict=False):
                return True
        bare = name.removeprefix("*").removeprefix(".")
        if name == "*" or (bare and not address and (host == bare or host.endswith(f".{bare}"))):
            return True
    return False


def _of_proxy(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    user = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
