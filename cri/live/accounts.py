# SPDX-License-Identifier: Apache-2.0
"""The accounts of images, which are read once as long as the image's files are the same: damaged ones are replaced.

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


MadeOf = tuple[str, bytes]
"""An image's id, and the identity of its files."""


class KeptAccounts:
    """Accounts by what their image is made of, those that were read first making way for later ones."""

    def __init__(self) -> None:
        self._kept: dict[MadeOf, Accounts] = {}

    def of(self, image: MadeOf, read: Callable[[], Accounts]) -> Accounts:
        """Return the accounts that are kept, or those that `read` finds. Raises what it raises. A missing passwd is
        looked for each time, since it may be a file that could not be read.
        """
        if (known := self._kept.get(image)) is not None:
            return known
        accounts = read()
        if accounts.passwd and len(accounts.passwd) + len(accounts.group) <= MOST_CHARACTERS:
            for oldest in list(self._kept)[: max(len(self._kept) - MOST + 1, 0)]:
                self._kept.pop(oldest, None)
            self._kept[image] = accounts
        return accounts
