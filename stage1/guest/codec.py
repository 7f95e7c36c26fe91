# SPDX-License-Identifier: Apache-2.0
"""The messages of the link as bytes, in protobuf's encoding, and back. Pure.

Used by both ends of the link, and by writers and readers of single requests, such as rkt's plan. The tables give the
number and type of each field; the meaning of values is not known here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from stage1.guest import messages as m
from stage1.guest import numbers, operations, pod_messages, wire
from stage1.guest.wire import Field

OPS: dict[int, type[m.Op]] = {
    1: m.Configure, 2: m.Create, 3: m.Start, 4: m.Exec, 5: m.Signal, 6: m.Delete, 7: m.Update, 8: m.Resize, 9: m.List,
    10: m.Shutdown, 11: m.MountImage, 12: m.UnmountImage, 13: m.Connect, 14: m.Disconnect, 16: m.Stats, 30: m.Launch,
    31: m.Halt, 45: m.Tune, 46: m.Freeze, 47: m.Shares,
}  # fmt: skip
EVENTS: dict[int, type[m.Exited]] = {1: m.Exited}

_U32, _U64, _I32, _BOOL = Field(wire.U32), Field(wire.U64), Field(wire.I32), Field(wire.BOOL)
_STR, _BYTES = Field(wire.STR), Field(wire.BYTES)
_ENUM = Field(wire.I32)  # open, as in proto3: a value that we do not know is kept
_STDIO, _RAW = Field(wire.MESSAGE, m.Stdio), Field(wire.BOOL, number=55)
_IN_GUEST = Field(wire.BOOL, number=60)
_APPARMOR = Field(wire.BOOL, number=90)


_HELLO = (
    _U32, _BYTES, _U64, _U64, _U64, _U64, _U64, _U64, _U64, _STR, Field(wire.BOOL, number=50), _RAW, _IN_GUEST,
    _APPARMOR, Field(wire.BOOL, number=95),
)  # fmt: skip
TABLES: wire.Tables = {
    m.Hello: _HELLO,
    m.Start: (_STR,),
    m.Exec: (_STR, _U32, _STR, _STDIO, _RAW),
    m.Signal: (_STR, _U32, _U32, _BOOL),
    m.Delete: (_STR,),
    m.Update: (_STR, _STR),
    m.Resize: (_STR, _U32, _U32, _U32),
    m.List: (),
    m.Shutdown: (),
    m.MountImage: (_STR, _U64, _U64),
    m.UnmountImage: (_STR,),
    m.Container: (_STR, _ENUM, _STDIO, _U32, _I32, _BOOL, _U64, _U64),
    m.Reply: (
        _ENUM,
        _STR,
        _U32,
        Field(wire.MESSAGE, m.Container, many=True, most=numbers.MOST_CONTAINERS),
        Field(wire.MESSAGE, m.ContainerStats, many=True, number=7, most=numbers.MOST_STATS),
        Field(wire.MESSAGE, m.PodStats, number=8),
    ),
    m.Exited: (_STR, _U32, _I32, _BOOL, _U64),
    **numbers.TABLES,
    **operations.TABLES,
    **pod_messages.TABLES,
}


def encode(message: NamedTuple) -> bytes:
    """Return the bytes of `message` itself. Raises WireError for a number that does not fit."""
    return wire.encode(message, TABLES)


def encode_request(op: m.Op) -> bytes:
    """Return a Request that holds `op`. Raises WireError."""
    return wire.encode_oneof(op, OPS, tables=TABLES)


def encode_event(what: m.Exited) -> bytes:
    """Return an Event that holds `what`. Raises WireError."""
    return wire.encode_oneof(what, EVENTS, tables=TABLES)


def decode_hello(data: bytes) -> m.Hello:
    """Raises WireError."""
    hello: m.Hello = wire.decode(m.Hello, data, TABLES)
    return hello


def decode_reply(data: bytes) -> m.Reply:
    """Raises WireError."""
    reply: m.Reply = wire.decode(m.Reply, data, TABLES)
    return reply


def decode_request(data: bytes) -> m.Op | None:
    """Return the operation; None when it is one that we do not know. Raises WireError."""
    op: m.Op | None = _decode_oneof(OPS, data)
    return op


def decode_event(data: bytes) -> m.Exited | None:
    """Return what happened; None when it is something that we do not know. Raises WireError."""
    what: m.Exited | None = _decode_oneof(EVENTS, data)
    return what


def _decode_oneof(members: Mapping[int, type[Any]], data: bytes) -> Any:
    decoded = None
    for number, kind, raw in wire.fields(data):
        if number in members:
            if kind != wire.LENGTH or isinstance(raw, int):
                raise wire.WireError("a field has the wrong wire type")
            decoded = wire.decode(members[number], raw, TABLES)
    return decoded
