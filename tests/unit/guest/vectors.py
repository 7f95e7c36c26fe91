# SPDX-License-Identifier: Apache-2.0
"""Makes the files of proto/vectors, which define in bytes what both ends of the link agree on; see the README there.

Run `python -m tests.unit.guest.vectors` after a change. Bytes of messages come from google.protobuf, those of frames
are written out by hand here: neither comes from the code that they test.
"""

import json
import struct

from google.protobuf import json_format

from tests.unit.guest.oracle import VECTORS, message_class

START = b"\0clearpod-link\x01\n"
KEY = bytes(range(16))
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"

BAD_MESSAGES = {
    "ends-in-a-tag": ("Hello", "08"),
    "ends-in-a-number": ("Hello", "0880"),
    "number-of-eleven-bytes": ("Hello", "08" + "ff" * 10 + "01"),
    "text-longer-than-the-message": ("Hello", "5205" + "61" * 4),
    "inner-message-longer-than-the-outer": ("Request", "1a050a01"),
    "inner-message-ends-in-a-number": ("Request", "1a020a80"),
    "field-zero": ("Reply", "0001"),
}


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, seq: int = 0, bits: tuple[int, int] = (0, 0)) -> bytes:
    """One frame; `bits` are the flags and the field that must be zero."""
    return struct.pack("<IBBHIQ", len(payload), kind, *bits, stream, seq) + payload


def message_bytes() -> dict[str, tuple[str, bytes]]:
    """The good messages: name -> type and bytes."""
    result = {}
    for case in json.loads((VECTORS / "messages.json").read_text()):
        message = json_format.ParseDict(case["value"], message_class(case["type"])())
        result[case["name"]] = case["type"], message.SerializeToString(deterministic=True)
    return result


def messages_text() -> str:
    """messages.txt."""
    good = [f"{name} {kind} {data.hex() or '-'}" for name, (kind, data) in message_bytes().items()]
    bad = [f"{name} !{kind} {data}" for name, (kind, data) in BAD_MESSAGES.items()]
    return LICENCE + "\n".join([*good, *bad]) + "\n"


def frames_text() -> str:
    """frames.txt."""
    messages = {name: data for name, (_, data) in message_bytes().items()}
    cases = {
        "hello HELLO": frame(1, messages["hello-host"]),
        "ack-nothing ACK": frame(2),
        "ack ACK": frame(2, seq=0x0102030405060708),
        "request REQUEST": frame(3, messages["start"], stream=0x01020304, seq=1),
        "reply-empty REPLY": frame(4, stream=7, seq=2),
        "event EVENT": frame(5, messages["exited"], seq=2**64 - 1),
        "data DATA": frame(6, b"hello\n", stream=2, seq=3),
        "data-end DATA": frame(6, b"bye", stream=2, seq=4, bits=(1, 0)),
        "data-empty-end DATA": frame(6, stream=0xFFFFFFFF, seq=5, bits=(1, 0)),
        "credit CREDIT": frame(7, struct.pack("<I", 16384), stream=2, seq=6),
        "kind-zero BAD": frame(0),
        "kind-eight BAD": frame(8, seq=1),
        "kind-255 BAD": frame(255, seq=1),
        "too-long BAD": struct.pack("<IBBHIQ", 32769, 6, 0, 0, 1, 1),
        "length-of-all-ones BAD": struct.pack("<IBBHIQ", 2**32 - 1, 6, 0, 0, 1, 1),
    }
    return LICENCE + "".join(f"{name} {data.hex()}\n" for name, data in cases.items())


def streams_text() -> str:
    """streams.txt."""
    hello = frame(1, message_bytes()["hello-host"][1])
    half = frame(6, bytes(1000), stream=1, seq=1)[:500]
    cases = {
        "first-contact NEW OPEN": START + hello,
        "first-contact-behind-noise NEW OPEN": b"\0clearpod\0" + bytes(50) + START + hello,
        "key-means-nothing-yet NEW HUNT": KEY + hello,
        "marker-without-hello NEW HUNT": START + frame(2, seq=1) + bytes(20),
        "again KEYED OPEN": KEY + hello,
        "again-behind-half-a-frame KEYED OPEN": KEY + hello + half + KEY + hello,
        "again-behind-half-a-hello KEYED OPEN": KEY + hello[:30] + KEY + hello,
        "again-behind-half-a-hello-that-has-the-key KEYED OPEN": KEY + hello[:44] + KEY + hello,
        "first-marker-means-nothing-any-more KEYED HUNT": START + frame(1, message_bytes()["hello-guest"][1]),
        "greeting-of-a-host-that-does-not-know NEW OPEN": KEY + hello + START + hello + KEY + hello,
        "greeting-to-one-that-has-the-key KEYED OPEN": half + KEY + hello + START + hello + KEY + hello,
        "fault NEW HUNT": START + hello + frame(9) + bytes(30),
        "fault-and-again NEW OPEN": START + hello + frame(9) + bytes(30) + KEY + hello,
        "number-skipped NEW HUNT": START + hello + frame(6, b"x", stream=1, seq=2),
    }
    return LICENCE + "".join(f"{name} {data.hex()}\n" for name, data in cases.items())


FILES = {"messages.txt": messages_text, "frames.txt": frames_text, "streams.txt": streams_text}

if __name__ == "__main__":
    for name, make in FILES.items():
        (VECTORS / name).write_text(make())
