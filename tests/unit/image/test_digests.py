# SPDX-License-Identifier: Apache-2.0
"""What a registry is asked for an image that is here, by whom, and which answers count: against odd servers."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cri.config import Config
from cri.config_tables import Registry
from cri.image import digestjob, digests
from cri.image.asked import Asked
from cri.image.registries import Auth
from cri.store.reference import parse
from stage1.errors import BadRequest
from tests.fakes.patience import PATIENCE

DIGEST = "sha256:" + "a" * 64
ME = Auth("me", "secret")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in digests._ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("name", "entries", "auth", "asked"),
    [
        ("busybox", (), None, Asked("docker.io", "library/busybox", "latest")),
        ("r.io/a:1", (), ME, Asked("r.io", "a", "1", False, "me:secret")),
        ("r.io/a:1", (), ME._replace(server_address="other.io"), Asked("r.io", "a", "1")),
        (f"r.io/a@{DIGEST}", (Registry(prefix="r.io", insecure=True),), None, Asked("r.io", "a", DIGEST, True)),
        ("127.0.0.1:5000/a:1", (), None, Asked("127.0.0.1:5000", "a", "1", True)),
        ("127.0.0.1:5000/a:1", (Registry(prefix="127.0.0.1:5000"),), None, Asked("127.0.0.1:5000", "a", "1")),
        ("r.io/a:1", (Registry(prefix="r.io", mirrors=("m.io",)),), None, None),
        ("r.io/a:1", (Registry(prefix="r.io", location="m.io:5"),), ME, Asked("m.io:5", "a", "1", False, "me:secret")),
        ("r.io/a/b:1", (Registry(prefix="r.io/a", location="m.io/x/y/"),), None, Asked("m.io", "x/y/b", "1")),
        ("r.io/a:1", (Registry(prefix="r.io", location="m.io", mirrors=("n.io",)),), None, None),
        ("r.io/a:1", (Registry(prefix="*.io"),), None, None),
        ("r.io/a:1", (), Auth(identity_token="x"), None),
    ],
)
def test_only_what_is_plain_is_asked_without_skopeo(
    name: str, entries: tuple[Registry, ...], auth: Auth | None, asked: Asked | None
) -> None:
    assert digests.question(parse(name), config=Config(registries=entries), auth=auth) == asked


@pytest.mark.parametrize("variable", ["https_proxy", "HTTP_PROXY", "SSL_CERT_FILE"])
def test_a_proxy_and_other_authorities_are_skopeos_but_for_the_loopback(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    assert digests.question(parse("r.io/a:1"), config=Config(), auth=None) is None
    assert digests.question(parse("localhost:5000/a:1"), config=Config(), auth=None)


def test_credentials_that_are_none_are_refused_as_by_a_first_pull() -> None:
    with pytest.raises(BadRequest, match="base64"):
        digests.question(parse("r.io/a:1"), config=Config(), auth=Auth(auth="?"))


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            answer(self)

        do_GET = do_HEAD

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
        request.wfile.write(body)

    return answer


def by_basic(request: BaseHTTPRequestHandler) -> None:
    if request.headers["Authorization"] == "Basic bWU6c2VjcmV0":
        says(200, ("Docker-Content-Digest", DIGEST))(request)
    else:
        says(401, ("WWW-Authenticate", 'Basic realm="x"'))(request)


def by_token(body: bytes) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/token?"):
            assert request.headers["Authorization"] == "Basic bWU6c2VjcmV0" and "scope=s%3Aa" in request.path
            says(200, body=body)(request)
        elif request.headers["Authorization"] == "Bearer t":
            says(200, ("Docker-Content-Digest", DIGEST))(request)
        else:
            realm = f'Bearer realm="http://{request.headers["Host"]}/token",service="x",scope="s:a"'
            says(401, ("WWW-Authenticate", realm))(request)

    return answer


OF_DIGEST = ("Docker-Content-Digest", DIGEST)


@pytest.mark.parametrize(
    ("answer", "digest"),
    [
        (says(200, OF_DIGEST), DIGEST),
        (says(200), ""),
        (says(404, OF_DIGEST), ""),
        (says(307, OF_DIGEST, ("Location", "http://127.0.0.1:1/")), ""),
        (says(200, ("Docker-Content-Digest", DIGEST + "\r\n x")), ""),
        (says(200, ("Docker-Content-Digest", "sha256:" + "a" * 70_000)), ""),
        (says(200, *(("X", "y") for _ in range(1000)), OF_DIGEST), ""),
        (says(401, ("WWW-Authenticate", "Negotiate")), ""),
        (says(401, ("WWW-Authenticate", 'Bearer realm="file:///etc/passwd"')), ""),
        (by_basic, DIGEST),
        (by_token(b'{"token": "t"}'), DIGEST),
        (by_token(b'{"access_token": "t"}'), DIGEST),
        (by_token(b'{"token": "other"}'), ""),
        (by_token(b"[" * 60_000), ""),
        (by_token(b'{"token": "a\\r\\nb"}'), ""),
    ],
)
def test_a_digest_is_taken_from_a_plain_answer_only(answer: Answer, digest: str) -> None:
    with server(answer) as host:
        asked = Asked(host, "a", "1", True, "me:secret")
        assert digestjob.job((), json.dumps(asked).encode()) == digest


def test_a_registry_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digestjob, "_CALL_S", 0.1)
    done = threading.Event()
    with server(lambda _: done.wait(20) and None) as host:
        assert digestjob.digest(Asked(host, "a", "1", True)) == ""
        done.set()


def test_a_process_without_tls_is_not_asked_in_the_clear() -> None:
    with server(says(200, OF_DIGEST)) as host:
        assert digestjob.digest(Asked(host, "a", "1")) == ""


async def test_each_registry_and_user_has_a_process_of_its_own_and_there_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[_Worker] = []
    monkeypatch.setattr(digests.confined, "Worker", lambda kind, asker: made.append(_Worker()) or made[-1])
    asking = digests.Digests()
    names = [f"r{number}.io/a:1" for number in range(digests.MOST + 1)]
    for name, auth in [*((name, None) for name in names[1:]), (names[1], ME)]:
        answers = [await asking.of(parse(name), config=Config(), auth=auth) for _ in range(3)]
        assert answers == ["", DIGEST, DIGEST]
    assert len(made) == digests.MOST + 1 and [len(one.asked) for one in made] == [2] * len(made)
    asking.close()
    for one in made:
        assert await asyncio.to_thread(one.closed.wait, 10 * PATIENCE)
    assert made[-1].asked == [list(Asked("r1.io", "a", "1", False, "me:secret"))] * 2


async def test_a_process_that_has_ended_is_started_again_for_the_next_request_unless_that_comes_much_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[_Worker] = []
    monkeypatch.setattr(digests.confined, "Worker", lambda kind, asker: made.append(_Worker()) or made[-1])
    monkeypatch.setattr(digests, "KEEP_S", 0.01)
    asking, answers = digests.Digests(), []
    for _ in range(4):
        answers.append(await asking.of(parse("r.io/a:1"), config=Config(), auth=None))
        for one in made:
            assert await asyncio.to_thread(one.closed.wait, 10 * PATIENCE)
    assert (answers, len(made)) == (["", DIGEST, DIGEST, DIGEST], 3)
    monkeypatch.setattr(digests, "AGAIN_S", 0.0)
    assert await asking.of(parse("r.io/a:1"), config=Config(), auth=None) == ""
    assert len(made) == 3


class _Worker:
    def __init__(self) -> None:
        self.asked: list[list[object]] = []
        self.closed = threading.Event()

    def ask(self, kind: object, data: bytes) -> str:
        self.asked.append(json.loads(data))
        return DIGEST

    def close(self) -> None:
        self.closed.set()


async def test_a_process_that_is_started_for_a_pull_that_was_cancelled_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), _Worker()

    def start(kind: object, asker: object) -> _Worker:
        begun.set()
        go_on.wait(10 * PATIENCE)
        return made

    monkeypatch.setattr(digests.confined, "Worker", start)
    asking = digests.Digests()
    assert await asking.of(parse("r.io/a:1"), config=Config(), auth=None) == ""
    task = asyncio.ensure_future(asking.of(parse("r.io/a:1"), config=Config(), auth=None))
    await asyncio.to_thread(begun.wait, 10 * PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.to_thread(made.closed.wait, 10 * PATIENCE)
    asking.close()
