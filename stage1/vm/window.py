# SPDX-License-Identifier: Apache-2.0
"""Which image lies where in a pod's DAX window. Pure: for `mapping.py`, which makes it so.

Images are whole pages, in one piece each. The lowest place that is large enough is taken, so that the free space stays
together at the end.
"""

from __future__ import annotations

from typing import NamedTuple

PAGE_BYTES = 4096


class Placed(NamedTuple):
    """An image of `size` bytes at `offset`."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind the image."""
        return self.offset + self.size


class Window(NamedTuple):
    """`size` bytes, and what lies in them, in the order of the offsets. `is_disk`: of a disk, not of memory."""

    size: int
    images: tuple[Placed, ...] = ()
    is_disk: bool = False

    def find(self, name: str) -> Placed | None:
        """The image of that name, or None."""
        return next((image for image in self.images if image.name == name), None)

    def gaps(self) -> list[tuple[int, int]]:
        """(offset, size) of each free piece, lowest first."""
        begins = [0, *(image.end for image in self.images)]
        ends = [*(image.offset for image in self.images), self.size]
        return [(begin, end - begin) for begin, end in zip(begins, ends, strict=True) if end > begin]

    def place(self, name: str, size: int) -> Placed | None:
        """The offset for an image of `size` bytes, rounded up to pages; None if no gap is large enough."""
        needed = max(-(-size // PAGE_BYTES), 1) * PAGE_BYTES
        return next((Placed(name, offset, needed) for offset, free in self.gaps() if free >= needed), None)

    def plus(self, image: Placed) -> Window:
        """Return the window with `image` mapped. Raises ValueError unless it is page-aligned, inside the window and
        free.
        """
        fits = any(offset <= image.offset and image.end <= offset + free for offset, free in self.gaps())
        if not fits or (image.offset | image.size) % PAGE_BYTES or image.size <= 0 or self.find(image.name):
            raise ValueError(f"{image} does not fit into {self}")
        return self._replace(images=tuple(sorted((*self.images, image), key=lambda one: one.offset)))

    def minus(self, name: str) -> Window:
        """Without the image of that name."""
        return self._replace(images=tuple(image for image in self.images if image.name != name))
