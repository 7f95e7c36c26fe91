# SPDX-License-Identifier: Apache-2.0
"""Values in files of the daemon's: the text that is kept of them is that of what they are now."""

import json
from typing import Any, NamedTuple

import pytest

from cri.store import codec


class Part(NamedTuple):
    name: str
    data: bytes = b""


class Whole(NamedTuple):
    number: int
    first: Part
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()


ODD = Part('"\\\x00\u2028\udc80', b"\xff\x00")


@pytest.mark.parametrize("value", [Whole(0, ODD), Whole(-1, Part(""), (ODD, ODD), ("", '"')), ODD, (), ("a", b"b")])
def test_the_text_of_a_value_is_what_dump_makes_of_it(value: Any) -> None:
    texts = codec.Texts(Part)
    for _ in range(2):
        assert json.loads(texts.of(value)) == codec.dump(value)


def test_a_value_that_comes_in_place_of_another_has_its_own_text() -> None:
    texts, part = codec.Texts(Part), Part("kept")
    for number in range(500):  # those that go make room for others of the same id
        value = Whole(number, part, tuple(Part(f"{number} {at}") for at in range(3)))
        assert codec.load(Whole, json.loads(texts.of(value))) == value


def test_the_text_of_a_value_that_was_there_before_is_not_made_again() -> None:
    texts, part = codec.Texts(Part), Part("x" * 5000)
    assert texts.of(Whole(1, part)) is not None
    (kept,) = texts._kept.values()
    texts.of(Whole(2, part, (Part("new"),)))
    assert texts._kept[id(part)] is kept and len(texts._kept) == 2
