# SPDX-License-Identifier: Apache-2.0
"""Documents that a registry is asked for without skopeo: those that come plainly and whole, and no others."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cri.config import Config
from cri.image import digestjob, direct
from cri.image.asked import LED, Asked
from cri.image.direct import Direct
from cri.image.documents import Reader
from cri.image.lazy_worker import LazyWorker
from cri.image.skopeo import RegistryUnavailable
from cri.store.reference import parse
from stage1.errors import PodError, TimedOut
from stage1.linux import sandbox
from stage1.linux.supervise import Stopped
from stage1.rootfs.forking import ForkServer
from stage1.rootfs.limits import Limits
from tests.fakes.patience import PATIENCE

from .test_digests import Answer, says, server

DIGEST = "sha256:" + "a" * 64


def by_token(body: bytes) -> tuple[Answer, list[str]]:
    """What answers with `body` to who shows a token, and what it was asked for."""
    seen: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path.partition("?")[0])
        if request.path.startswith("/token?"):
            says(200, body=b'{"token": "t"}')(request)
        elif request.headers["Authorization"] == "Bearer t":
            says(200, body=body)(request)
        else:
            realm = f'Bearer realm="http://{request.headers["Host"]}/token",service="x",scope="s:a"'
            says(401, ("WWW-Authenticate", realm))(request)

    return answer, seen


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (says(200, body=b"{}"), b"{}"),
        (says(200, ("Content-Length", "2"), body=b"{}"), b"{}"),
        (says(200, ("Content-Length", "3"), body=b"{}"), b""),
        (says(200, ("Content-Length", "x"), body=b"{}"), b"{}"),
        (says(200, body=b"x" * 100), b"x" * 100),
        (says(200, body=b"x" * 101), b""),
        (says(200, ("Content-Length", "1000000000000"), body=b"x" * 200), b""),
        (says(200), b""),
        (says(404, body=b"{}"), b""),
        (says(429, body=b"{}"), b""),
        (says(206, body=b"{}"), b""),
    ],
)
def test_a_document_is_taken_from_a_plain_and_whole_answer_only(answer: Answer, data: bytes) -> None:
    with server(answer) as host:
        asked = json.dumps(Asked(host, "a", "1", True)).encode()
        assert base64.b64decode(digestjob.job(("manifest", "1", "100"), asked)) == data


@pytest.mark.parametrize("status", [200, 401, 404])
def test_a_host_that_the_registry_leads_to_gives_a_document_or_is_named(status: int) -> None:
    with contextlib.ExitStack() as servers:
        other = servers.enter_context(server(says(status, body=b"{}")))
        leading = says(307, ("Location", f"http://{other}/there"), body=b"{}")
        host = servers.enter_context(server(leading))
        asked = json.dumps(Asked(host, "a", "1", True, "me:secret")).encode()
        answer = digestjob.job(("manifest", "1", "100"), asked)
    assert answer == ("e30=" if status == 200 else f"{LED}{other}")


def test_a_token_serves_for_all_documents_of_an_image() -> None:
    answer, seen = by_token(b"{}")
    with server(answer) as host:
        asked = Asked(host, "a", "1", True, "me:secret")
        assert digestjob.document(asked, "manifest", most_bytes=100) == b"{}"
        assert digestjob.document(asked._replace(reference=DIGEST), "blob", most_bytes=100) == b"{}"
        assert digestjob.document(asked._replace(user="you:secret"), "manifest", most_bytes=100) == b"{}"
    manifest, blob = "/v2/a/manifests/1", f"/v2/a/blobs/{DIGEST}"
    assert seen == [manifest, "/token", manifest, blob, manifest, "/token", manifest]


async def test_without_a_server_or_a_fence_skopeo_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(ForkServer(())) as forks:
        lacking = sandbox.means()._replace(lacks="no Landlock")
        without = Direct(parse("127.0.0.1:1/a:1"), config=Config(), auth=None, server=None)
        monkeypatch.setattr(sandbox, "means", lambda: lacking)
        unfenced = Direct(parse("127.0.0.1:1/a:1"), config=Config(), auth=None, server=forks)
        for one in (without, unfenced):
            assert (await one.manifest("1"), await one.config(DIGEST)) == (b"", b"")
            assert one._worker._worker is None


async def test_one_process_asks_for_all_and_an_answer_that_is_none_ends_it() -> None:
    with server(says(200, body=b"{}")) as host, contextlib.closing(ForkServer((digestjob.__name__,))) as forks:
        one = Direct(parse(f"{host}/a:1"), config=Config(), auth=None, server=forks)
        assert await one.manifest("1") == b"{}"
        worker = one.start()
        assert worker is not None
        assert await one.config(DIGEST) == b"{}" and one.start() is worker
        worker._talk.kill()
        assert await one.config(DIGEST) == b"" and one.start() is None
        assert await one.manifest("1") == b"", "skopeo has it from now on"
        one.close()


async def test_an_answer_of_a_process_that_was_taken_over_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def __init__(self, answer: object) -> None:
            self.answer = answer

        def ask(self, *_: object) -> object:
            if isinstance(self.answer, PodError):
                raise self.answer
            return self.answer

        def close(self) -> None:
            """Nothing."""

    with contextlib.closing(ForkServer(())) as forks:
        for answer in (7, None, ["e30="], "e30", "e30=\n", "é", PodError("it was killed")):
            one = Direct(parse("127.0.0.1:1/a:1"), config=Config(), auth=None, server=forks)
            one._worker = LazyWorker(lambda answer=answer: Worker(answer))  # type: ignore[arg-type, misc]
            assert await one.manifest("1") == b"", answer


async def test_a_process_that_does_not_answer_is_ended_in_a_thread() -> None:
    """It is given time to end by itself, in which the event loop has other things to do."""
    ended: list[threading.Thread] = []

    class Worker:
        def ask(self, *_: object) -> object:
            raise TimedOut("no answer")

        def close(self) -> None:
            ended.append(threading.current_thread())

    with contextlib.closing(ForkServer(())) as forks:
        one = Direct(parse("127.0.0.1:1/a:1"), config=Config(), auth=None, server=forks)
        one._worker = LazyWorker(Worker)  # type: ignore[arg-type]
        assert await one.manifest("1") == b""
    assert len(ended) == 1 and ended[0] is not threading.current_thread()


def test_a_process_that_was_closed_is_not_started_any_more_by_a_thread_that_comes_late() -> None:
    with contextlib.closing(ForkServer(())) as forks:
        asking = Direct(parse("127.0.0.1:1/a:1"), config=Config(), auth=None, server=forks)
        reader = Reader("a", Limits(), forks)
        for one in (asking, reader):
            one.close()
            with pytest.raises(Stopped):
                one.start()
            one.close()
        assert forks._process is None


CONTENT = b"layer" * 50_000
SIZES = {f"sha256:{hashlib.sha256(CONTENT).hexdigest()}": len(CONTENT)}
HEX = next(iter(SIZES))[7:]


@contextlib.contextmanager
def direct_to(host: str, tmp_path: Path) -> Iterator[Direct]:
    (tmp_path / "blobs").mkdir()
    with contextlib.closing(ForkServer((direct.MODULE,))) as forks:
        one = Direct(parse(f"{host}/a:1"), config=Config(), auth=None, server=forks, box=str(tmp_path / "box"))
        with contextlib.closing(one):
            yield one


async def test_layers_come_by_a_confined_process_and_are_roots_then(tmp_path: Path) -> None:
    with server(says(200, body=CONTENT)) as host, direct_to(host, tmp_path) as one:
        assert not one.brings(), "there is no process yet"
        assert await one.manifest("1") == CONTENT and one.brings()
        await one.bring(SIZES)
        one.adopt(SIZES, directory=f"{tmp_path}/blobs")
        assert os.listdir(tmp_path / "box" / "out") == []
        status = (tmp_path / "blobs" / HEX).stat()
        assert (status.st_uid, status.st_mode & 0o777, status.st_size) == (0, 0o644, len(CONTENT))
        one.close()
        assert not one.brings()
        one.adopt(SIZES, directory=f"{tmp_path}/blobs")


def a_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def too_large(path: Path) -> None:
    path.write_bytes(CONTENT + b"x")


@pytest.mark.parametrize("make", [a_link, too_large, os.mkfifo, os.mkdir])
def test_what_a_process_that_was_taken_over_leaves_is_no_blob(make: Callable[[Path], None], tmp_path: Path) -> None:
    with direct_to("127.0.0.1:1", tmp_path) as one:
        one.start()
        for name in (HEX, "a" * 64, f"{HEX}.part"):
            make(tmp_path / "box" / "out" / name)
        one.adopt(SIZES, directory=f"{tmp_path}/blobs")
        assert os.listdir(tmp_path / "blobs") == []


def test_what_was_brought_in_part_is_removed_and_nothing_is_adopted_then(tmp_path: Path) -> None:
    with direct_to("127.0.0.1:1", tmp_path) as one:
        one.start()
        (tmp_path / "box" / "out" / f"{HEX}.part").write_bytes(CONTENT[:-1])
        for _ in range(2):
            one.discard()
        assert not (tmp_path / "box").exists()
        one.adopt(SIZES, directory=f"{tmp_path}/blobs")
        assert os.listdir(tmp_path / "blobs") == []


async def test_an_abandoned_download_ends_with_its_process(tmp_path: Path) -> None:
    asked, done = threading.Event(), threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        done.wait(20 * PATIENCE)

    with server(answer) as host, direct_to(host, tmp_path) as one:
        await asyncio.to_thread(one.start)
        task = asyncio.ensure_future(one.bring(SIZES))
        assert await asyncio.to_thread(asked.wait, 10 * PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not one.brings() and not direct._downloading
        done.set()


async def test_concurrent_direct_downloads_are_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with direct_to("127.0.0.1:1", tmp_path) as one:
        one.start()
        monkeypatch.setattr(direct, "MOST_AT_ONCE", 0)
        assert not one.brings()


async def test_a_registry_that_makes_no_progress_times_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(direct, "_DOWNLOAD_S", 0.2)
    done = threading.Event()
    with server(lambda _: done.wait(20 * PATIENCE) and None) as host, direct_to(host, tmp_path) as one:
        await asyncio.to_thread(one.start)
        with pytest.raises(RegistryUnavailable):
            await one.bring(SIZES)
        done.set()
