# SPDX-License-Identifier: Apache-2.0
"""The request by which a pod or a container was made, parsed once: lists read it each second, and the records keep it
as bytes. Owned by the pods and containers.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Config = TypeVar("Config")


class Parsed(Generic[Config]):
    """The last bytes that `parse` was given, and what it made of them."""

    def __init__(self, parse: Callable[[bytes], Config]) -> None:
        self._parse = parse
        self._last: tuple[bytes, Config] | None = None

    def get(self, data: bytes) -> Config:
        """The parsed `data`; the same object for the same bytes object, so it must not be changed."""
        if self._last is None or self._last[0] is not data:
            self._last = data, self._parse(data)
        return self._last[1]
