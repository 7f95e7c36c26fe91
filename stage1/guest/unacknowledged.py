# SPDX-License-Identifier: Apache-2.0
"""What a link keeps until the other end has it: frames that we sent, and sizes of what the guest sent and we still use.

Used by `link`. Both are bounded, and a guest that goes over a bound breaks the rules: LinkFault. Nothing here does I/O.
"""

from collections import deque

from stage1.guest.frame import HEADER_BYTES, RING, pack
from stage1.guest.incoming import LinkFault

HELD_LIMIT = 2 * RING  # of what the guest sends ahead of our acknowledgement
SENT_LIMIT = 4 * RING  # of what the guest has not acknowledged
SENT_FRAMES = 8192


class Sent:
    """Our frames that the guest has not acknowledged, in their order: on a new connection they are sent again."""

    def __init__(self) -> None:
        self.size = 0
        self._seq = 0
        self._frames: deque[tuple[int, bytes]] = deque()

    def has_capacity(self) -> bool:
        """The share for requests and data; the other half is for credit, which must not be blocked."""
        return self.size <= SENT_LIMIT // 2 and len(self._frames) <= SENT_FRAMES // 2

    def add(self, kind: int, payload: bytes, *, stream: int, flags: int) -> bytes:
        """The next frame, which is kept. Raises LinkFault when there are too many already."""
        if self.size > SENT_LIMIT or len(self._frames) > SENT_FRAMES:
            raise LinkFault("the guest's agent sends, but has stopped taking what we send")
        self._seq += 1
        frame = pack(kind, payload, stream=stream, seq=self._seq, flags=flags)
        self._frames.append((self._seq, frame))
        self.size += len(frame)
        return frame

    def acknowledge(self, seq: int) -> bool:
        """The guest has all up to `seq`; whether that is news. Raises LinkFault for one that was never sent."""
        if seq > self._seq:
            raise LinkFault(f"the guest's agent reports that it has frame {seq}, and we sent {self._seq}")
        before = len(self._frames)
        while self._frames and self._frames[0][0] <= seq:
            self.size -= len(self._frames.popleft()[1])
        return len(self._frames) < before

    def frames(self) -> list[bytes]:
        """Return all unacknowledged frames."""
        return [frame for _, frame in self._frames]


class Held:
    """The guest's frames that were received and not consumed yet: the guest must keep them, which limits how much it
    can send.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # by sequence number, in their order
        self._bytes = 0

    def add(self, seq: int, size: int) -> None:
        """Frame `seq` with a payload of `size` bytes. Raises LinkFault when it is too much."""
        self._sizes[seq] = size + HEADER_BYTES
        self._bytes += size + HEADER_BYTES
        if self._bytes > HELD_LIMIT:
            raise LinkFault("the guest's agent sends without waiting for acknowledgements")

    def release(self, seq: int) -> None:
        """Release the frame `seq`. Idempotent."""
        self._bytes -= self._sizes.pop(seq, 0)

    def release_until(self, seq: int) -> None:
        """All up to `seq`. Idempotent."""
        while self._sizes and (first := next(iter(self._sizes))) <= seq:
            self._bytes -= self._sizes.pop(first)

    def used_up(self, received: int) -> int:
        """Return the number of the last frame, up to `received`, before which none is held."""
        return next(iter(self._sizes)) - 1 if self._sizes else received
