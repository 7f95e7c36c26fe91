# SPDX-License-Identifier: Apache-2.0
"""Lists in pieces, for the streamed calls. Pure."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Sized(Protocol):
    """A message."""

    def ByteSize(self) -> int: ...


Message = TypeVar("Message", bound=Sized)

CHUNK_BYTES = 1 << 20
"""Far below the 16 MiB that a message may have; one item alone may be larger."""


def chunks(items: Iterable[Message], most_bytes: int = CHUNK_BYTES) -> Iterator[list[Message]]:
    """The items in order, in lists of about `most_bytes`; none for no items."""
    chunk: list[Message] = []
    size = 0
    for item in items:
        if chunk and size + item.ByteSize() > most_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += item.ByteSize()
    if chunk:
        yield chunk
