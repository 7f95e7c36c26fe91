# SPDX-License-Identifier: Apache-2.0
"""Containers that a client has removed and whose remains are still in the guest and on the host. Owned by the pod; what
is done with them is in `cri.containers.leaving`.
"""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cri.live.container import LiveContainer


class Leaving:
    """`containers` by id; `due` is set while somebody waits for the end of `tasks`, which clear them away."""

    def __init__(self) -> None:
        self.containers: dict[str, LiveContainer] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.due = asyncio.Event()
