# SPDX-License-Identifier: Apache-2.0
"""The interface of a client for exec and attach, whichever protocol it speaks. Implemented by `spdy_session` and
`channel_session`.
"""

import asyncio
from typing import Protocol

from cri.streaming.input_queue import InputQueue

SETUP_S = 30.0
"""How long a client may take to open its streams."""
DRAIN_S = 60.0
"""How long a slow client may take to read what is left when the process has ended."""
GOODBYE_S = 2.0
"""How long one that was told everything may take to close."""


class Session(Protocol):
    """`version` is that of the protocol, 1 to 5. `stdin` and `resize` end when the client half-closes them or is
    gone.
    """

    version: int
    stdin: InputQueue
    resize: InputQueue

    async def run(self) -> None:
        """Take what the client sends until it is gone. One task does this all the time."""

    async def ready(self) -> None:
        """Wait until output may be sent. Raises TimedOut."""

    async def write(self, name: str, data: bytes) -> None:
        """Send output of the stream `name`. Raises ConnectionError."""

    async def finish(self, status: bytes) -> None:
        """Send the status, the last message, and end all streams. Raises ConnectionError."""

    def abort(self) -> None:
        """End at once."""


async def end(client: Session, reading: "asyncio.Task[None]", *, status: bytes) -> None:
    """Send the `status`, give the client time to read it, and close. Errors are ignored: the client may be gone."""
    for queue in (client.stdin, client.resize):
        queue.close()
    try:
        async with asyncio.timeout(DRAIN_S):
            await client.finish(status)
        await asyncio.wait({reading}, timeout=GOODBYE_S)
    except (TimeoutError, ConnectionError):
        pass
    finally:
        client.abort()
