# SPDX-License-Identifier: Apache-2.0
"""The protobuf wire format, as far as proto/agent/agent.proto uses it: no repeated numbers, no maps, no floats.

Driven by tables that `messages.py` has. It exists because importing google.protobuf costs more than a whole
start of stage1; the tests hold it to google.protobuf's bytes. Pure, and strict when it reads: the guest is
not trusted. What differs from google.protobuf when reading: a number out of range and a wrong wire type are
errors, as are more fields than a message of its kind can need (each costs more time than the bytes that say it), and of
a message field that is there twice the last one wins. Messages nest as deep as the tables do, which is not recursive.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stage1.errors import PodError

U32, U64, I32, BOOL, STR, BYTES, MESSAGE = range(7)
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_RANGES = {U32: (0, 2**32 - 1), U64: (0, 2**64 - 1), I32: (-(2**31), 2**31 - 1), BOOL: (0, 1)}
_EMPTY: dict[int, object] = {U32: 0, U64: 0, I32: 0, BOOL: False, STR: "", BYTES: b"", MESSAGE: None}


class WireError(PodError):
    """Bytes that are not the message they should be, or a value that does not fit its field."""


class Field(NamedTuple):
    """One field; `number` 0: its place in the table, from 1. `many`: repeated (a tuple here), up to `most` times."""

    kind: int
    message: type[Any] | None = None
    many: bool = False
    number: int = 0
    most: int = 256


Tables = dict[type[Any], tuple[Field, ...]]

EXTRA_FIELDS = 16
"""How many unknown or repeated fields a message may have."""


class _Step(NamedTuple):
    """How to store a field: its place in the message, and the largest number that is used as it was read (None: it is
    not a number, -1: none is).
    """

    place: int
    most: int | None
    field: Field


class _Plan(NamedTuple):
    """A message type's table, made ready for reading: steps by tag, known numbers, a message without fields, the places
    of repeated fields, and how many fields it may have."""

    steps: dict[int, _Step]
    numbers: frozenset[int]
    defaults: tuple[Any, ...]
    repeated: tuple[int, ...]
    most: int


_plans: dict[type[Any], _Plan] = {}
_new: Any = tuple.__new__
"""Makes a message of a list that has all of its fields, with no call of Python's."""


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


def encode_oneof(member: tuple[object, ...], members: Mapping[int, type[Any]], *, tables: Tables) -> bytes:
    """Return a message that holds one of `members`, which are by their numbers. Raises WireError as `encode`."""
    out = bytearray()
    number = next(number for number, kind in members.items() if kind is type(member))
    put_bytes(out, number, data=encode(member, tables))
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
    """Return a `cls` from its bytes. Unknown fields are skipped. Raises WireError, which names message and field.

    A sample of a pod has a hundred numbers and a node has hundreds of pods, so tags and numbers of one byte, as nearly
    all are, take no call here.
    """
    plan = _plans.get(cls) or _plan(cls, tables[cls])
    steps, _, defaults, repeated, left = plan
    values = list(defaults)
    at, end = 0, len(data)
    while at < end:
        if (left := left - 1) < 0:
            raise WireError(f"{cls.__name__} has more fields than it can need")
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(data, at - 1)
        if (step := steps.get(tag)) is None:
            at = _skip(data, at, tag=tag, cls=cls, plan=plan)
            continue
        if at == end:
            raise WireError("a message ends inside a number")
        value = data[at]
        at += 1
        if value > 0x7F:
            value, at = _varint(data, at - 1)
        place, most, field = step
        if most is None:
            if (stop := at + value) > end:
                raise WireError("a field is longer than its message")
            raw, at = data[at:stop], stop
            read: object = decode(field.message, raw, tables) if field.message else _text(step, raw, cls=cls)
            if field.many:
                _keep(values, step, value=read, cls=cls)
            else:
                values[place] = read
        elif value > most:
            values[place] = _unusual(step, value, cls=cls)
        else:
            values[place] = value
    for place in repeated:
        values[place] = tuple(values[place])
    return _new(cls, values)


def _plan(cls: type[Any], table: tuple[Field, ...]) -> _Plan:
    steps = {}
    for place, field in enumerate(table):
        is_number = field.kind in _RANGES
        assert not (is_number and field.many), "no message has repeated numbers"
        most = None if not is_number else -1 if field.kind == BOOL else _RANGES[field.kind][1]
        steps[(field.number or place + 1) << 3 | (VARINT if is_number else LENGTH)] = _Step(place, most, field)
    repeated = tuple(place for place, field in enumerate(table) if field.many)
    defaults = tuple(() if field.many else _EMPTY[field.kind] for field in table)
    most = sum(field.most if field.many else 1 for field in table) + EXTRA_FIELDS
    _plans[cls] = plan = _Plan(steps, frozenset(tag >> 3 for tag in steps), defaults, repeated, most)
    return plan


def _keep(values: list[Any], step: _Step, *, value: object, cls: type[Any]) -> None:
    if not values[step.place]:
        values[step.place] = [value]
    elif len(values[step.place]) < step.field.most:
        values[step.place].append(value)
    else:
        raise WireError(f"{cls.__name__}.{cls._fields[step.place]} has more than {step.field.most} entries")


def _text(step: _Step, raw: bytes, *, cls: type[Any]) -> object:
    """The value of a length-delimited field that is no message."""
    if step.field.kind == BYTES:
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WireError(f"{cls.__name__}.{cls._fields[step.place]}: not valid UTF-8") from None


def _unusual(step: _Step, value: int, *, cls: type[Any]) -> int:
    """The value of a field whose number is not as it was read: a bool, or a negative one."""
    if step.field.kind == BOOL:
        return value != 0
    if step.field.kind == I32 and value - 2**64 >= _RANGES[I32][0]:
        return value - 2**64
    raise WireError(f"{cls.__name__}.{cls._fields[step.place]}: {value} does not fit")


def _skip(data: bytes, at: int, *, tag: int, cls: type[Any], plan: _Plan) -> int:
    """The end of the field that begins at `at`, after its tag. Raises WireError for a field of a known number."""
    if tag >> 3 in plan.numbers and tag & 7 in (VARINT, FIXED64, LENGTH, FIXED32):
        place = next(step.place for known, step in plan.steps.items() if known >> 3 == tag >> 3)
        raise WireError(f"{cls.__name__}.{cls._fields[place]}: the wrong wire type")
    return _field(data, at, tag=tag)[1]


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (number, wire type, value) of each field; fixed-width values as bytes. Raises WireError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _field(data, at, tag=tag)
        yield tag >> 3, tag & 7, value


def _field(data: bytes, at: int, *, tag: int) -> tuple[int | bytes, int]:
    """The value that begins at `at`, behind its tag, and where it ends."""
    number, wire = tag >> 3, tag & 7
    if not 1 <= number < 2**29 or wire not in (VARINT, FIXED64, LENGTH, FIXED32):
        raise WireError(f"{tag:#x} is not the tag of a field")
    if wire == VARINT:
        return _varint(data, at)
    size = {FIXED64: 8, FIXED32: 4}.get(wire, -1)
    if size < 0:
        size, at = _varint(data, at)
    if at + size > len(data):
        raise WireError("a field is longer than its message")
    return data[at : at + size], at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while (byte := data[at]) > 0x7F:
            value |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if shift == 70:
                raise WireError("a number has more than ten bytes")
    except IndexError:
        raise WireError("a message ends inside a number") from None
    return (value | byte << shift) & 0xFFFFFFFFFFFFFFFF, at + 1
