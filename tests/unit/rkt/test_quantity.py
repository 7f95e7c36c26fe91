# SPDX-License-Identifier: Apache-2.0
"""Quantities: the grammar of resource limits."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.errors import BadRequest
from stage1.rkt import quantity


@pytest.mark.parametrize(
    "text, parts, value",
    [
        ("0", 1, 0),
        ("1", 1, 1),
        ("+1", 1, 1),
        ("100M", 1, 100_000_000),
        ("64Mi", 1, 64 << 20),
        ("1Ki", 1, 1024),
        ("1.5Gi", 1, 3 << 29),
        (".5Ki", 1, 512),
        ("1.", 1, 1),
        ("1k", 1, 1000),
        ("2T", 1, 2 * 10**12),
        ("3P", 1, 3 * 10**15),
        ("4E", 1, 4 * 10**18),
        ("5Ti", 1, 5 << 40),
        ("6Pi", 1, 6 << 50),
        ("7Ei", 1, 7 << 60),
        ("1e3", 1, 1000),
        ("1E3", 1, 1000),
        ("12e-1", 1, 2),
        ("1e+2", 1, 100),
        ("500m", 1, 1),
        ("500m", 1000, 500),
        ("1500m", 1000, 1500),
        ("0.1", 1000, 100),
        ("2", 1000, 2000),
        ("0.0001", 1000, 1),
        ("1001m", 1, 2),
    ],
)
def test_what_it_is(text: str, parts: int, value: int) -> None:
    assert quantity.parse(text, where="x", parts=parts) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        ".",
        "1 M",
        "1,5",
        "M1",
        "1e",
        "--1",
        "0x10",
        "1e1000",
        "1MiB",
        "1K",
        "one",
        "1e+-5",
        "1.2.3",
        "e5",
        "1e5k",
        "++1",
        "1-",
        "1e100",
    ],
)
def test_what_it_is_not(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^x: "):
        quantity.parse(text, where="x")


@pytest.mark.parametrize("text", ["-1", "-1m", "8Ei", "10E", "1e99", "9" * 30])
def test_what_is_out_of_range(text: str) -> None:
    if text == "-1m":  # rounded up it is nothing
        assert quantity.parse(text, where="x") == 0
        return
    with pytest.raises(BadRequest, match="out of range"):
        quantity.parse(text, where="x")


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(["", "m", "k", "M", "Ki", "Mi"]))
def test_it_is_rounded_up(whole: int, thousandths: int, suffix: str) -> None:
    factor = {"": 1, "m": Fraction(1, 1000), "k": 1000, "M": 10**6, "Ki": 1024, "Mi": 1 << 20}[suffix]
    exact = (whole + Fraction(thousandths, 1000)) * factor
    result = quantity.parse(f"{whole}.{thousandths:03}{suffix}", where="x")
    assert result - 1 < exact <= result
