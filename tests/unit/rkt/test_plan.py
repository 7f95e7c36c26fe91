# SPDX-License-Identifier: Apache-2.0
"""The plan that an autonomous agent carries out, as the frames in its file."""

import pytest

from stage1.guest import codec, frame
from stage1.guest.messages import Configure, Create, Launch, Stdio
from stage1.pod.model import Container, Process
from stage1.rkt import plan
from stage1.rkt.loader import App
from stage1.rkt.streams import INTERACTIVE, LOG, NULL, STREAM, TTY, Streams


def container(name: str, *, tty: bool = False) -> Container:
    return Container(name, name, "sha512-x", Process(("/bin/true",), tty=tty))


def app(name: str, streams: Streams = Streams(), *, tty: bool = False) -> App:  # noqa: B008
    return App(name, container(name, tty=tty), f"/roots/{name}", streams=streams)


def read(text: bytes) -> list[tuple[int, object]]:
    buffer, result = bytearray(text), []
    while (one := frame.cut(buffer)) is not None:
        assert (one.kind, one.flags, one.seq) == (frame.REQUEST, 0, 0)
        result.append((one.stream, codec.decode_request(one.payload)))
    assert not buffer
    return result


def test_all_roots_are_made_before_anything_starts_and_no_start_is_waited_for() -> None:
    one = app("one")._replace(pre_start=container("one.pre-start"), post_stop=container("one.post-stop"))
    settings = Configure("here", lasting=False, link_key=bytes(16))
    assert read(plan.plan(settings, (one, app("two")), volumes=("data",))) == [
        (1, settings),
        (2, Create("data.volume", "empty/data")),
        (3, Create("one.pre-start", "apps/one", shared=True)),
        (4, Create("one", "apps/one", shared=True)),
        (5, Create("one.post-stop", "apps/one", shared=True)),
        (6, Create("two", "apps/two", shared=True)),
        (0, Launch("one", "one.pre-start", "one.post-stop")),
        (0, Launch("two")),
    ]


def test_a_root_on_the_pods_disk_is_over_the_one_of_the_host() -> None:
    on_disk = app("one").each(lambda one: one._replace(root_of="one.root"))
    requests = [request for _, request in read(plan.plan(Configure(), (on_disk,)))]
    assert Create("one.root", "apps/one") in requests and Create("one", "apps/one", shared=True) in requests
    assert plan.root(app("one")) is None


def test_an_empty_sandbox_is_only_configured() -> None:
    assert read(plan.plan(Configure(lasting=True), ())) == [(1, Configure(lasting=True))]


IDS = plan.streams("one")


@pytest.mark.parametrize(
    ("streams", "tty", "expected"),
    [
        (Streams(), False, None),
        (Streams(INTERACTIVE, INTERACTIVE, INTERACTIVE), False, Stdio(console=True)),
        (Streams(INTERACTIVE, INTERACTIVE, INTERACTIVE), True, Stdio(tty=True, console=True)),
        (Streams(STREAM, STREAM, LOG), False, Stdio(IDS[0], IDS[1])),
        (Streams(NULL, LOG, STREAM), False, Stdio(0, 0, IDS[2])),
        (Streams(NULL, STREAM, LOG, "/l", 257), False, Stdio(0, IDS[1], log=257)),
        (Streams(NULL, NULL, NULL), False, Stdio(0, IDS[1], IDS[2])),
        (Streams(TTY, TTY, TTY), True, Stdio(IDS[0], IDS[1], tty=True)),
    ],
)
def test_streams_go_where_they_were_asked_to(streams: Streams, tty: bool, expected: Stdio | None) -> None:
    (created,) = plan.creation(app("one", streams, tty=tty))
    assert created.stdio == expected


def test_streams_of_apps_differ_and_are_above_those_of_execs() -> None:
    ids = [number for name in ("a", "b", "a-b", "x" * 60) for number in plan.streams(name)]
    assert len(set(ids)) == len(ids) and all(1 << 31 <= number < 1 << 32 for number in ids)


def test_handlers_write_to_the_console_whatever_the_app_does() -> None:
    one = app("one", Streams(STREAM, STREAM, STREAM))._replace(pre_start=container("one.pre-start"))
    assert plan.creation(one)[0].stdio is None
