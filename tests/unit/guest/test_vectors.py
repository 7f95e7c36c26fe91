# SPDX-License-Identifier: Apache-2.0
"""proto/vectors is what makes it, and our codec and both ends of the link agree with it byte for byte."""

import pytest

from stage1.guest import codec, frame, wire
from stage1.guest.frame import Splitter
from stage1.guest.messages import Hello
from tests.fakes.guest_link import GuestLink
from tests.unit.guest.oracle import VECTORS
from tests.unit.guest.vectors import FILES, KEY

KINDS = {name: getattr(frame, name) for name in ("HELLO", "ACK", "REQUEST", "REPLY", "EVENT", "DATA", "CREDIT")}
DECODE = {
    "Hello": codec.decode_hello,
    "Request": codec.decode_request,
    "Reply": codec.decode_reply,
    "Event": codec.decode_event,
}
ENCODE = {"Request": codec.encode_request, "Event": codec.encode_event}


def cases(file: str) -> list[list[str]]:
    """The lines of a file of vectors, split."""
    lines = (VECTORS / file).read_text().splitlines()
    return [line.replace(" -", " ").split(" ") for line in lines if not line.startswith("#")]


def ids(case: object) -> str | None:
    return case[0] if isinstance(case, list) else None


@pytest.mark.parametrize("file", FILES)
def test_the_file_is_what_makes_it(file: str) -> None:
    assert (VECTORS / file).read_text() == FILES[file](), "run python -m tests.unit.guest.vectors"


@pytest.mark.parametrize("case", [c for c in cases("messages.txt") if c[1][0] != "!"], ids=ids)
def test_a_message_decodes_and_encodes_to_the_same_bytes(case: list[str]) -> None:
    _, kind, data = case
    message = DECODE[kind](bytes.fromhex(data))
    assert ENCODE.get(kind, codec.encode)(message).hex() == data


@pytest.mark.parametrize("case", [c for c in cases("messages.txt") if c[1][0] == "!"], ids=ids)
def test_a_broken_message_is_refused(case: list[str]) -> None:
    with pytest.raises(wire.WireError):
        DECODE[case[1][1:]](bytes.fromhex(case[2]))


@pytest.mark.parametrize("case", [c for c in cases("frames.txt") if c[1] != "BAD"], ids=ids)
def test_a_frame_is_read_and_packed_to_the_same_bytes(case: list[str]) -> None:
    data = bytes.fromhex(case[2])
    splitter = Splitter(frame.START)
    hello = frame.pack(frame.HELLO)
    splitter.feed(frame.START + (data if case[1] == "HELLO" else hello + data))
    result = [splitter.take() for _ in range(2 if case[1] != "HELLO" else 1)][-1]
    assert result is not None
    assert result.kind == KINDS[case[1]]
    assert frame.pack(result.kind, result.payload, stream=result.stream, seq=result.seq, flags=result.flags) == data


@pytest.mark.parametrize("case", [c for c in cases("frames.txt") if c[1] == "BAD"], ids=ids)
def test_a_frame_that_can_not_be_is_refused(case: list[str]) -> None:
    splitter = Splitter(frame.START)
    splitter.feed(frame.START + frame.pack(frame.HELLO) + bytes.fromhex(case[2]))
    assert splitter.take() is not None
    assert splitter.take() is None
    assert splitter.lost


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize("case", cases("streams.txt"), ids=ids)
def test_a_guest_opens_exactly_when_it_is_spoken_to(case: list[str], piece: int) -> None:
    _, before, after, text = case
    guest = GuestLink(Hello(boot_id=1))
    if before == "KEYED":
        guest.receive(frame.START + frame.pack(frame.HELLO, codec.encode(Hello(key=KEY, epoch=1))))
        guest.connected()
    data = bytes.fromhex(text)
    for at in range(0, len(data), piece):
        guest.receive(data[at : at + piece])
    assert guest.open == (after == "OPEN")
