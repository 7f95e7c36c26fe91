# SPDX-License-Identifier: Apache-2.0
"""The resize stream: JSON objects {"Width": 80, "Height": 24}, one behind the other. Pure."""

import json

LONGEST = 256
"""Bytes of one object, with some air."""
LATEST = 4096
"""Bytes that are looked at of what has come at once: a terminal has its last size."""


class Sizes:
    """Takes the stream as it arrives."""

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, data: bytes) -> list[tuple[int, int]]:
        """Width and height of each of the latest sizes that are complete now; what is no size is thrown away."""
        sizes = []
        *whole, rest = (self._rest + data)[-LATEST:].split(b"}")
        for text in whole:
            try:
                size = json.loads(text[text.rfind(b"{") :][:LONGEST] + b"}")
                sizes.append((_number(size["Width"]), _number(size["Height"])))
            except (ValueError, KeyError, TypeError):
                continue
        self._rest = rest[-LONGEST:]
        return sizes


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise ValueError(value)
    return value
