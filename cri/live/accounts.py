# SPDX-License-Identifier: Apache-2.0
"""The accounts of images, which are read once: an image's id is the digest of all that is in it.

Owned by the node, used by whoever creates containers, in threads. No I/O.
"""

from collections.abc import Callable
from typing import NamedTuple

MOST, MOST_CHARACTERS = 64, 32 << 10
"""How many are kept, and of what size at most: what a base image has is less than a tenth of that."""


class Accounts(NamedTuple):
    """The image's /etc/passwd and /etc/group, empty where it has none."""

    passwd: str = ""
    group: str = ""


class KeptAccounts:
    """Accounts by the id of their image, those that were read first making way for later ones."""

    def __init__(self) -> None:
        self._kept: dict[str, Accounts] = {}

    def of(self, image_id: str, read: Callable[[], Accounts]) -> Accounts:
        """Return the accounts that are kept, or those that `read` finds. Raises what it raises. A missing passwd is
        looked for each time, since it may be a file that could not be read.
        """
        if (known := self._kept.get(image_id)) is not None:
            return known
        accounts = read()
        if accounts.passwd and len(accounts.passwd) + len(accounts.group) <= MOST_CHARACTERS:
            for oldest in list(self._kept)[: max(len(self._kept) - MOST + 1, 0)]:
                self._kept.pop(oldest, None)
            self._kept[image_id] = accounts
        return accounts
