# SPDX-License-Identifier: Apache-2.0
"""The lab's messages: whole ones arrive, whatever lies torn between them."""

import pytest

from tests.lab import protocol
from tests.lab.protocol import Lines, encode


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_arrive_whole_in_pieces_of_any_size(size: int) -> None:
    stream = encode(id="a", argv=["sh", "-c", "exit 1\n"]) + encode(id="a", out=bytes(range(256)))
    lines, result = Lines(), []
    for start in range(0, len(stream), size):
        result += lines.feed(stream[start : start + size])
    assert result[0] == {"id": "a", "argv": ["sh", "-c", "exit 1\n"]}
    assert protocol.data(result[1], "out") == bytes(range(256))


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b'{"id": "old", "out": "aGF',
        b'"}\n',
        b"\n\n\n",
        b"[1, 2]\n",
        b'"id"\n',
        b"7",
        b"\xff\xfe\x00",
        b'{"no": "id"}\n',
        b"[" * 100_000,
    ],
    ids=lambda torn: repr(torn[:20]),
)
def test_the_torn_rest_of_an_earlier_conversation_does_not_hide_the_next_message(torn: bytes) -> None:
    assert Lines().feed(torn + encode(id="new", code=0)) == [{"id": "new", "code": 0}]


@pytest.mark.parametrize("code, shown", [(0, 0), (1, 1), (255, 255), (-9, 137), (-15, 143)])
def test_an_exit_code_is_that_of_a_shell(code: int, shown: int) -> None:
    assert protocol.exit_code(code) == shown
