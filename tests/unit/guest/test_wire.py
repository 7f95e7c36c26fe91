# SPDX-License-Identifier: Apache-2.0
"""Our protobuf codec is google.protobuf's, for every message of the proto and whatever is in it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.guest import codec, wire
from stage1.guest import messages as m
from tests.unit.guest.oracle import descriptors, message_class

NUMBERS = {
    wire.U32: st.integers(0, 2**32 - 1),
    wire.U64: st.integers(0, 2**64 - 1),
    wire.I32: st.integers(-(2**31), 2**31 - 1),
    wire.BOOL: st.booleans(),
    wire.STR: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    wire.BYTES: st.binary(max_size=20),
}


def values(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any message of a class."""
    return st.builds(cls, **{name: member(f) for name, f in zip(cls._fields, codec.TABLES[cls], strict=True)})


def member(field: wire.Field) -> st.SearchStrategy[Any]:
    inner = values(field.message) if field.message else NUMBERS[field.kind]
    if field.many:
        return st.lists(inner, max_size=3).map(tuple)
    return st.none() | inner if field.message else inner


def to_google(message: Any) -> Any:
    """The same message of google.protobuf's."""
    out = message_class(type(message).__name__)()
    for name, value in zip(message._fields, message, strict=True):
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            getattr(out, name).extend([to_google(v) if hasattr(v, "_fields") else v for v in value])
        elif hasattr(value, "_fields"):
            getattr(out, name).CopyFrom(to_google(value))
            getattr(out, name).SetInParent()
        elif value is not None:
            setattr(out, name, value)
    return out


ANY = st.one_of([values(cls) for cls in codec.TABLES])


@given(ANY)
def test_every_message_has_the_bytes_of_google_protobuf(message: Any) -> None:
    assert codec.encode(message) == to_google(message).SerializeToString(deterministic=True)


@given(ANY)
def test_every_message_comes_back_as_it_was(message: Any) -> None:
    data = to_google(message).SerializeToString(deterministic=True)
    assert wire.decode(type(message), data, codec.TABLES) == message


@given(st.one_of([values(cls) for cls in codec.OPS.values()]))
def test_every_request_comes_back_as_it_was(op: Any) -> None:
    google = message_class("Request").FromString(codec.encode_request(op))
    assert type(op).__name__.lower() == google.WhichOneof("op").replace("_", "")
    assert codec.decode_request(google.SerializeToString(deterministic=True)) == op


def test_an_event_comes_back_as_it_was() -> None:
    event = m.Exited("c", 3, -1, True, 5)
    assert message_class("Event").FromString(codec.encode_event(event)).exited.exit_code == -1
    assert codec.decode_event(codec.encode_event(event)) == event


@given(st.sampled_from(list(codec.TABLES)), st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_and_nothing_worse(cls: type[Any], data: bytes) -> None:
    try:
        message = wire.decode(cls, data, codec.TABLES)
    except wire.WireError:
        return
    assert type(message) is cls


def test_names_and_numbers_of_all_fields_are_those_of_the_proto() -> None:
    proto = {message.name: message for message in descriptors().message_type}
    assert proto.keys() - {cls.__name__ for cls in codec.TABLES} == {"Request", "Event"}
    for cls in codec.TABLES:
        fields = proto[cls.__name__].field
        numbers = [field.number or place for place, field in enumerate(codec.TABLES[cls], 1)]
        assert [(f.number, f.name) for f in fields] == list(zip(numbers, cls._fields, strict=True))
    for name, members in (("Request", codec.OPS), ("Event", codec.EVENTS)):
        fields = proto[name].field
        result = [(f.number, f.name.replace("_", "")) for f in fields]
        assert result == [(n, c.__name__.lower()) for n, c in members.items()]


def test_the_values_of_enums_are_those_of_the_proto() -> None:
    for enum in descriptors().enum_type:
        assert {value.name: getattr(m, value.name) for value in enum.value} == {v.name: v.number for v in enum.value}


def test_unknown_fields_are_skipped() -> None:
    more = bytes.fromhex("f80601f90600000000000000fffa0603616263fd0600000000")
    assert codec.decode_reply(more + b"\x18\x05" + more) == m.Reply(pid=5)
    assert codec.decode_request(more) is None
    assert codec.decode_event(bytes.fromhex("fa0600")) is None


@pytest.mark.parametrize(
    "message",
    [m.Signal(signal=-1), m.Signal(exec=2**32), m.Hello(epoch=2**64), m.Reply(code=2**31), m.Start("\udc80")],
)
def test_a_value_that_does_not_fit_its_field_is_refused(message: Any) -> None:
    with pytest.raises(wire.WireError):
        codec.encode(message)


@pytest.mark.parametrize("text", ["0a01ff", "08ffffffff1f", "1a00", "08010a00"[:2], "0900", "0b", "0c"], ids=str)
def test_what_the_guest_must_not_send_is_refused(text: str) -> None:
    with pytest.raises(wire.WireError):
        codec.decode_reply(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("code", "error"),
    [(m.INVALID, "BadRequest"), (m.NOT_FOUND, "NotFound"), (m.EXISTS, "AlreadyExists"),
     (m.WRONG_STATE, "WrongState"), (m.NO_COMMAND, "NoCommand"), (m.FAILED, "AgentFailed"), (99, "AgentFailed")],
)  # fmt: skip
def test_a_reply_raises_what_its_code_means(code: int, error: str) -> None:
    with pytest.raises(Exception, match="it broke") as caught:
        m.check_reply(m.Reply(code, "it broke"), m.List())
    assert type(caught.value).__name__ == error
