# SPDX-License-Identifier: Apache-2.0
"""The messages of the link as bytes, in protobuf's encoding, and back. Pure.

Used by both ends of the link, and by whoever writes or reads single requests, as rkt's plan. The tables say which field
of a message has which number and type; what values mean is not known here.
"""

from typing import Any, NamedTuple

from stage1.guest import messages as m
from stage1.guest import numbers, operations, wire
from stage1.guest.wire import Field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OPS: dict[int, type[m.Op]] = {
    1: m.Configure, 2: m.Create, 3: m.Start, 4: m.Exec, 5: m.Signal, 6: m.Delete, 7: m.Update, 8: m.Resize, 9: m.List,
    10: m.Shutdown, 11: m.MountImage, 12: m.UnmountImage, 13: m.Connect, 14: m.Disconnect, 16: m.Stats, 30: m.Launch,
    31: m.Halt, 45: m.Tune,
}  # fmt: skip
EVENTS: dict[int, type[m.Exited]] = {1: m.Exited}

_U32, _U64, _I32, _BOOL = Field(wire.U32), Field(wire.U64), Field(wire.I32), Field(wire.BOOL)
_STR, _BYTES, _STRS = Field(wire.STR), Field(wire.BYTES), Field(wire.STR, many=True)
_ENUM = Field(wire.I32)  # open, as in proto3: a value that we do not know is kept
_STDIO, _RAW = Field(wire.MESSAGE, m.Stdio), Field(wire.BOOL, number=55)
_VOLUMES, _IN_GUEST = Field(wire.STR, many=True, number=50), Field(wire.BOOL, number=60)
_APPARMOR = Field(wire.BOOL, number=90)


def _many(message: type[NamedTuple]) -> Field:
    return Field(wire.MESSAGE, message, many=True)


_CONFIGURE = (
    _STR, _STR, _U64, _many(m.Sysctl), _many(m.Interface), _many(m.Route), _many(m.Neighbour),
    Field(wire.U32, number=10), Field(wire.U32, number=11),
    Field(wire.BOOL, number=20), Field(wire.BYTES, number=21), Field(wire.U64, number=22),
    Field(wire.BYTES, number=30), Field(wire.BOOL, number=31), Field(wire.BOOL, number=32),
)  # fmt: skip
_HELLO = (
    _U32, _BYTES, _U64, _U64, _U64, _U64, _U64, _U64, _U64, _STR, Field(wire.BOOL, number=50), _RAW, _IN_GUEST,
    _APPARMOR, Field(wire.BOOL, number=95),
)  # fmt: skip
TABLES: wire.Tables = {
    m.Hello: _HELLO,
    m.Stdio: (_U32, _U32, _U32, _BOOL, _U32, _U32, _BOOL, _U32),
    m.Sysctl: (_STR, _STR),
    m.Interface: (_STR, _STR, _U32, _STRS, Field(wire.STR, number=30)),
    m.Route: (_STR, _STR, _STR, _U32, _U32, _U32),
    m.Neighbour: (_STR, _STR, _STR),
    m.Configure: _CONFIGURE,
    m.Create: (_STR, _STR, _BOOL, _STDIO, _BOOL, Field(wire.BOOL, number=20), _VOLUMES, _RAW, _IN_GUEST, _APPARMOR),
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
}


def encode(message: NamedTuple) -> bytes:
    """Return the bytes of `message` itself. Raises WireError for a number that does not fit."""
    return wire.encode(message, TABLES)


def encode_request(op: m.Op) -> bytes:
    """Return a Request that holds `op`. Raises WireError."""
    return _encode_oneof(OPS, op)


def encode_event(what: m.Exited) -> bytes:
    """Return an Event that holds `what`. Raises WireError."""
    return _encode_oneof(EVENTS, what)


def _encode_oneof(members: "Mapping[int, type[Any]]", member: m.Op | m.Exited) -> bytes:
    out = bytearray()
    number = next(number for number, kind in members.items() if kind is type(member))
    wire.put_bytes(out, number, data=wire.encode(member, TABLES))
    return bytes(out)


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


def _decode_oneof(members: "Mapping[int, type[Any]]", data: bytes) -> Any:
    decoded = None
    for number, kind, raw in wire.fields(data):
        if number in members:
            if kind != wire.LENGTH or isinstance(raw, int):
                raise wire.WireError("a field has the wrong wire type")
            decoded = wire.decode(members[number], raw, TABLES)
    return decoded
