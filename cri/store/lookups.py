# SPDX-License-Identifier: Apache-2.0
"""Results of queries by name, kept until the database changes. Used by `images`, with its database locked."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 64
"""Kept at most: each may be an image's config of some KiB."""


class Lookups(Generic[T]):
    """Answers by name, of one state of the database."""

    def __init__(self) -> None:
        self._state: object = None
        self._kept: dict[str, T] = {}

    def of(self, name: str, query: Callable[[str], T], *, state: object) -> T:
        """The result of `query` for the name in this `state`; with state None it is not cached. Raises what `query`
        raises.
        """
        if state is None:
            return query(name)
        if state != self._state or len(self._kept) >= MOST:
            self._state, self._kept = state, {}
        if name not in self._kept:
            self._kept[name] = query(name)
        return self._kept[name]
