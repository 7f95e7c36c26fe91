# SPDX-License-Identifier: Apache-2.0
"""The protobuf wire format, as far as proto/agent/agent.proto uses it: no packed numbers, no maps, no floats.

Driven by tables that `messages.py` has. It exists because importing google.protobuf costs more than a whole
start of stage1; the tests hold it to google.protobuf's bytes. Pure, and strict when it reads: the guest is
not trusted. What differs from google.protobuf when reading: a number out of range and a wrong wire type are
errors, as are more fields than a message of its kind can need (each costs more time than the bytes that say it), and of
a message field that is there twice the last one wins. Messages nest as deep as the tables do, which is not recursive.
"""

from typing import Any, NamedTuple

from stage1.errors import PodError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

U32, U64, I32, BOOL, STR, BYTES, MESSAGE = range(7)
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_RANGES = {U32: (0, 2**32 - 1), U64: (0, 2**64 - 1), I32: (-(2**31), 2**31 - 1), BOOL: (0, 1)}
_EMPTY: dict[int, object] = {U32: 0, U64: 0, I32: 0, BOOL: False, STR: "", BYTES: b"", MESSAGE: None}


class WireError(PodError):
    """Bytes that are not the message they should be, or a value that does not fit its field."""


class _BadValue(WireError):
    """A field's value is bad; whoever knows the field's name says so."""


class Field(NamedTuple):
    """One field; `number` 0: its place in the table, from 1. `many`: repeated (a tuple here), up to `most` times."""

    kind: int
    message: type[Any] | None = None
    many: bool = False
    number: int = 0
    most: int = 256


Tables = dict[type[Any], tuple[Field, ...]]

SPARE_FIELDS = 16
"""How many fields a message may have that we do not know, or twice."""
_plans: dict[type[Any], tuple[dict[int, int], int]] = {}


def encode(message: tuple[object, ...], tables: Tables) -> bytes:
    """Return the canonical bytes: fields in the order of their numbers, defaults left out.

    Raises WireError for a number that does not fit.
    """
    out = bytearray()
    for place, (field, value) in enumerate(zip(tables[type(message)], message, strict=True), 1):
        number = field.number or place
        if field.many:
            for item in value:  # type: ignore[attr-defined]
                _put(out, number, field=field, value=item, tables=tables)
        elif value is not None if field.message else value:
            _put(out, number, field=field, value=value, tables=tables)
    return bytes(out)


def put_bytes(out: bytearray, number: int, *, data: bytes) -> None:
    """Append a length-delimited field."""
    _put_varint(out, number << 3 | LENGTH)
    _put_varint(out, len(data))
    out += data


def _put(out: bytearray, number: int, *, field: Field, value: Any, tables: Tables) -> None:
    if field.kind == MESSAGE:
        put_bytes(out, number, data=encode(value, tables))
    elif field.kind == STR:
        put_bytes(out, number, data=_utf8(value))
    elif field.kind == BYTES:
        put_bytes(out, number, data=value)
    else:
        low, high = _RANGES[field.kind]
        if not low <= value <= high:
            raise WireError(f"field {number} of a message to the agent can't be {value}")
        _put_varint(out, number << 3 | VARINT)
        _put_varint(out, value & 0xFFFFFFFFFFFFFFFF)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise WireError(f"{text!r} in a message to the agent is not valid UTF-8") from None


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def decode(cls: type[Any], data: bytes, tables: Tables) -> Any:
    """Return a `cls` from its bytes. Unknown fields are skipped. Raises WireError, which names message and field."""
    table = tables[cls]
    values: list[Any] = [[] if f.many else _EMPTY[f.kind] for f in table]
    places, left = _plans.get(cls) or _plan(cls, table)
    for number, wire, raw in fields(data):
        left -= 1
        if left < 0:
            raise WireError(f"{cls.__name__} has more fields than it can need")
        place = places.get(number, -1)
        if place < 0:
            continue
        field = table[place]
        try:
            value = _value(field, wire, raw=raw, tables=tables)
        except _BadValue as error:
            raise WireError(f"{cls.__name__}.{cls._fields[place]}: {error}") from None
        if not field.many:
            values[place] = value
        elif len(values[place]) < field.most:
            values[place].append(value)
        else:
            raise WireError(f"{cls.__name__}.{cls._fields[place]} has more than {field.most} entries")
    return cls(*(tuple(v) if f.many else v for f, v in zip(table, values, strict=True)))


def _plan(cls: type[Any], table: tuple[Field, ...]) -> tuple[dict[int, int], int]:
    """Number of a field -> its place in the table; and how many fields a message may have."""
    places = {field.number or place: place - 1 for place, field in enumerate(table, 1)}
    most = sum(field.most if field.many else 1 for field in table) + SPARE_FIELDS
    _plans[cls] = places, most
    return places, most


def _value(field: Field, wire: int, *, raw: int | bytes, tables: Tables) -> object:
    if isinstance(raw, int):
        if field.kind not in _RANGES or wire != VARINT:
            raise _BadValue("the wrong wire type")
        return _number(field.kind, raw)
    if field.kind not in (STR, BYTES, MESSAGE) or wire != LENGTH:
        raise _BadValue("the wrong wire type")
    if field.message is not None:
        return decode(field.message, raw, tables)
    if field.kind == BYTES:
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _BadValue("not valid UTF-8") from None


def _number(kind: int, raw: int) -> int:
    if kind == BOOL:
        return raw != 0
    if kind == I32 and raw >= 2**63:
        raw -= 2**64
    low, high = _RANGES[kind]
    if not low <= raw <= high:
        raise _BadValue(f"{raw} does not fit")
    return raw


def fields(data: bytes) -> "Iterator[tuple[int, int, int | bytes]]":
    """Yield (number, wire type, value) of each field; fixed-width values as bytes. Raises WireError."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 2**29 or wire not in (VARINT, FIXED64, LENGTH, FIXED32):
            raise WireError(f"{tag:#x} is not the tag of a field")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire, -1)
        if size < 0:
            size, at = _varint(data, at)
        if at + size > end:
            raise WireError("a field is longer than its message")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("a message ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise WireError("a number has more than ten bytes")
