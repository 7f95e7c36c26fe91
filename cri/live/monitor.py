# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of a QEMU's own socket (QMP): presses the guest's power button, and reads why the guest ended.

Owned by `own_kernel`, one for each VM that boots an image's kernel. QEMU may be under the control of its guest, and
even an intact QEMU can be made to send some events endlessly, such as for a removed processor: lines are limited,
unknown events are ignored, and a monitor that sends too much is disconnected.
"""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from cri.threads import obtained
from stage1.errors import PodError
from stage1.linux import beneath
from stage1.own import GUEST_PANIC, REASONS
from stage1.vm.own_machine import BEGIN

log = logging.getLogger("clearpod.pod")

LINE_BYTES = 65536
CONNECT_S = 10.0
BURST_BYTES, BYTES_PER_S = 65536, 1024
"""How many bytes of events are accepted, and in what time: an event has some 150 bytes, and most guests cause a few
in their life.
"""


class Monitor:
    """One connection, made by `open`. `reason` is why the VM ended, one of `own.REASONS`, once the guest has ended it;
    `is_cut` when it has sent too much, and the guest's power button can't be pressed any more.
    """

    def __init__(self, path: str) -> None:
        self._path, self.reason, self.is_cut = path, "", False
        self._event_bytes, self._counted_s = 0.0, 0.0
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> bool:
        """Connect, best-effort, and start the VM if it waits; return whether that succeeded. Without a connection there
        are no commands, and only exit codes tell how the VM ended.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                with await obtained(beneath.Socket, beneath.Socket.close, self._path) as address:
                    reader, self._writer = await asyncio.open_unix_connection(address, limit=LINE_BYTES)
        except (OSError, PodError, TimeoutError) as error:
            log.warning("pod.monitor", extra={"socket": self._path, "error": str(error)})
            return False
        for command in BEGIN:
            self._send(command)
        self._task = asyncio.get_running_loop().create_task(self._listen(reader), name=f"monitor {self._path}")
        return True

    def power_down(self) -> None:
        """Press the power button; what the guest does then is its own choice."""
        self._send("system_powerdown")

    async def ended(self, limit_s: float) -> None:
        """Read QEMU's events until it closes the connection, at most so long."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=limit_s)

    async def close(self) -> None:
        """Hang up. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _send(self, command: str) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps({"execute": command}).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while line := await self._line(reader):
                self._take(line)
                if self._is_over(len(line)):
                    self._cut()
                    return

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readline()
        except ValueError:  # it is beyond the limit
            self._cut()
            return b""

    def _is_over(self, event_bytes: int) -> bool:
        now_s = asyncio.get_running_loop().time()
        forgiven = (now_s - self._counted_s) * BYTES_PER_S
        self._event_bytes = max(self._event_bytes - forgiven, 0) + event_bytes
        self._counted_s = now_s
        return self._event_bytes > BURST_BYTES

    def _cut(self) -> None:
        """QEMU keeps nothing for a client that is gone; for a slow one it would, without end."""
        log.warning("pod.monitor", extra={"socket": self._path, "error": "it was disconnected, since it sent too much"})
        self.is_cut = True
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _take(self, line: bytes) -> None:
        try:
            message: Any = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        if message.get("event") == "GUEST_PANICKED":  # which may reset as well
            self.reason = GUEST_PANIC
        elif message.get("event") == "SHUTDOWN" and isinstance(data := message.get("data"), dict):
            reason = data.get("reason")
            self.reason = self.reason or (reason if reason in REASONS else "")
