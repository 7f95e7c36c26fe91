# SPDX-License-Identifier: Apache-2.0
"""Values of D-Bus as bytes and back, little-endian, as the D-Bus specification has them. Pure. Called by `dbus`.

All types are written; read are numbers and texts, which is all that systemd answers where we ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
F_PATH, F_INTERFACE, F_MEMBER, F_ERROR, F_REPLY_TO, F_DESTINATION, F_SIGNATURE = 1, 2, 3, 4, 5, 6, 8
"""Fields of a header."""
_ALIGNED = {"y": 1, "g": 1, "v": 1, "(": 8, "t": 8}


def message(kind: int, serial: int, *, fields: Mapping[int, tuple[str, Any]], body: tuple[str, Any]) -> bytes:
    """A message; `body` is a signature and its values."""
    signature, values = body
    inside = Writer().put_all(signature, values).data
    if signature:
        fields = {**fields, F_SIGNATURE: ("g", signature)}
    head = Writer(b"l" + bytes((kind, 0, 1)) + len(inside).to_bytes(4, "little") + serial.to_bytes(4, "little"))
    head.put("a(yv)", list(fields.items()))
    head.align(8)
    return bytes(head.data + inside)


class Writer:
    """Values as bytes. A variant is a signature with its value."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def align(self, size: int) -> None:
        """Pad to a multiple of `size`, as the next value requires."""
        self.data += b"\0" * (-len(self.data) % size)

    def put_all(self, signature: str, values: Any) -> Writer:
        """One value for each type in the signature."""
        for kind, value in zip(types(signature), values, strict=True):
            self.put(kind, value)
        return self

    def put(self, kind: str, value: Any) -> None:
        """One value of one type."""
        self.align(_ALIGNED.get(kind[0], 4))
        if kind in ("y", "b", "u", "t"):
            self.data += int(value).to_bytes({"y": 1, "t": 8}.get(kind, 4), "little")
        elif kind in ("s", "o", "g"):
            text = value.encode()
            self.data += len(text).to_bytes(1 if kind == "g" else 4, "little") + text + b"\0"
        elif kind == "v":
            self.put("g", value[0])
            self.put(*value)
        elif kind[0] == "(":
            self.put_all(kind[1:-1], value)
        else:
            self._put_array(kind[1:], value)

    def _put_array(self, kind: str, values: Any) -> None:
        at = len(self.data)
        self.data += bytes(4)
        self.align(_ALIGNED.get(kind[0], 4))
        begun = len(self.data)
        for value in values:
            self.put(kind, value)
        self.data[at : at + 4] = (len(self.data) - begun).to_bytes(4, "little")


def types(signature: str) -> list[str]:
    """The complete types in it, in order."""
    complete, depth, begun = [], 0, 0
    for at, letter in enumerate(signature):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0 and letter != "a":
            complete.append(signature[begun : at + 1])
            begun = at + 1
    return complete


class Reader:
    """Values out of bytes: numbers and texts only. Raises ValueError, IndexError for what is cut off."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data, self._at = data, at

    def values(self, signature: str) -> list[Any]:
        """Return one value for each letter of the signature."""
        return [self._value(letter) for letter in signature]

    def fields(self) -> dict[int, Any]:
        """Return a header's fields, which are variants by number; `data` begins with their length, at a multiple of 8
        less 4.
        """
        end, fields = self._number(4) + 4, {}
        while self._at < end:
            self._at += -(self._at + 4) % 8
            number = self._number(1)
            fields[number] = self._value(self._value("g"))
        return fields

    def _value(self, kind: str) -> Any:
        if kind not in ("g", "s", "o", "u"):
            raise ValueError(f"a value of the type {kind[:20]!r} was not expected")
        if kind == "g":
            return self._text(self._number(1))
        self._at += -self._at % 4
        number = self._number(4)
        return number if kind == "u" else self._text(number)

    def _text(self, size: int) -> str:
        self._at += size + 1
        if self._at > len(self._data):
            raise IndexError("a text is cut off")
        return self._data[self._at - size - 1 : self._at - 1].decode(errors="replace")

    def _number(self, size: int) -> int:
        self._at += size
        if self._at > len(self._data):
            raise IndexError("a number is cut off")
        return int.from_bytes(self._data[self._at - size : self._at], "little")
