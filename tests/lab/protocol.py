# SPDX-License-Identifier: Apache-2.0
"""The protocol of the lab's client and its agent: JSON objects, one a line, over a virtio-serial port. Pure.

Client: {id, argv, cwd, anywhere, env, input} starts a command, {id, in} is standard input, {id, end} its end. Agent:
{id, out} and {id, err} are output, {id, code} the end (minus the signal's number when killed by one), and {id, beat} is
a periodic heartbeat of the machine, unless it is deterministic.

A port outlives its clients, so either side may see the torn rest of an earlier conversation: every message begins with
a line end of its own, what does not parse is skipped, and a reader ignores other ids than its own.
"""

import base64
import json
from typing import Any

PORTS = 4
"""So many commands can run at the same time."""
PORT_NAME = "clearpod.lab."
BEAT_S, SILENCE_S = 10.0, 120.0
"""How often a running command's port beats, and how long a client that heard a beat waits for the next word."""

NOT_EXECUTABLE, NOT_FOUND = 126, 127
LAB_FAILED, TIMED_OUT = 125, 124


def encode(**message: Any) -> bytes:
    """One message; bytes among the values become base64."""
    plain = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in message.items()}
    return b"\n" + json.dumps(plain).encode() + b"\n"


def data(message: dict[str, Any], key: str) -> bytes:
    """The bytes that `encode` was given for `key`."""
    return base64.b64decode(message[key])


def exit_code(code: int) -> int:
    """The exit code as in a shell: 128 + N for a command that signal N ended."""
    return code if code >= 0 else 128 - code


class Lines:
    """Puts messages together from pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """The messages that `piece` completes."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        return [message for line in whole if (message := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and "id" in message else None
