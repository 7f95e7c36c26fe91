# SPDX-License-Identifier: Apache-2.0
"""The shapes of names and numbers, against the regular expressions that they stand for."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.rkt import spelling

SHAPES: dict[Callable[[str], bool], str] = {
    spelling.is_name: r"[a-z0-9]+(-[a-z0-9]+)*",
    spelling.is_uuid: r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    spelling.is_variable: r"[A-Za-z_][A-Za-z_0-9.-]*",
    spelling.is_number: r"[0-9]+",
    spelling.is_hostname: r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}",
    spelling.is_octal: r"[0-7]{1,5}",
}
ODD = [
    "x" * 64, "x" * 65, "a b", "", "-", "a-", "-a", "a--b", "a-b", "A", "a\n", "é", "a/b", "..", "0", "٣", "²",
    "0755", "07777", "17777", "008", "000000",
    "A.b-c_1", "1A",
    "6733c088-a507-4694-aabf-eda9d3f3f5c0", "6733C088-a507-4694-aabf-eda9d3f3f5c0", "6733c088a5074694aabfeda9d3f3f5c0",
    "6733c088-a507-4694-aabf-eda9d3f3f5c0\n", "g733c088-a507-4694-aabf-eda9d3f3f5c0",
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("text", ODD)
def test_shapes(shape: Callable[[str], bool], text: str) -> None:
    assert bool(shape(text)) == bool(re.fullmatch(SHAPES[shape], text))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@given(text=st.text(alphabet="aAz09-_.7f\n/é", max_size=8))
def test_shapes_of_anything(shape: Callable[[str], bool], text: str) -> None:
    assert bool(shape(text)) == bool(re.fullmatch(SHAPES[shape], text))
