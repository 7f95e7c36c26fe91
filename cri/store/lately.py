# SPDX-License-Identifier: Apache-2.0
"""What was looked up lately in a database, kept until that changes. Used by `images`, with its database locked."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 64
"""Kept at most: each may be an image's config of some KiB."""


class Lately(Generic[T]):
    """Answers by name, of one state of the database."""

    def __init__(self) -> None:
        self._state: object = None
        self._kept: dict[str, T] = {}

    def of(self, name: str, look: Callable[[str], T], *, state: object) -> T:
        """What `look` says of the name in this `state`; in state None nothing is kept. Raises what `look` raises."""
        if state is None:
            return look(name)
        if state != self._state or len(self._kept) >= MOST:
            self._state, self._kept = state, {}
        if name not in self._kept:
            self._kept[name] = look(name)
        return self._kept[name]
