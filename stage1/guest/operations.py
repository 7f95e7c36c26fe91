# SPDX-License-Identifier: Apache-2.0
"""Operations for ports and for the apps of autonomous pods, of proto/agent/agent.proto. Pure. A part of `messages`, by
which it is used.
"""

from typing import NamedTuple

from stage1.guest import wire
from stage1.guest.wire import Field

__all__ = ["Connect", "Disconnect", "Halt"]


class Connect(NamedTuple):
    """Connects to a TCP port of the pod's loopback; `connection` is unique in the pod and not 0, `input` goes to it."""

    connection: int = 0
    port: int = 0
    input: int = 0
    output: int = 0


class Disconnect(NamedTuple):
    """Cuts a connection. Idempotent."""

    connection: int = 0


class Halt(NamedTuple):
    """Ends an app, with "" the pod: SIGTERM, after `grace_ms` SIGKILL. Fine when it has ended."""

    id: str = ""
    grace_ms: int = 0


_STR, _U32 = Field(wire.STR), Field(wire.U32)
TABLES: wire.Tables = {
    Connect: (_U32, _U32, _U32, _U32),
    Disconnect: (_U32,),
    Halt: (_STR, _U32),
}
