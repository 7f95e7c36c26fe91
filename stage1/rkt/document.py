# SPDX-License-Identifier: Apache-2.0
"""Typed reading of JSON that others wrote: null and missing are the same, and another type is an error. Pure.

`where` begins each error and names the object that is read.
"""

from typing import Any

from stage1.errors import BadRequest

Document = dict[str, Any]


def text(document: Document, key: str, *, where: str) -> str:
    """The string at `key`, else "". Raises BadRequest."""
    value = _of_type(document, key, kind=str, where=where)
    if value and "\0" in value:
        raise BadRequest(f"{where}: {key!r} has a zero byte, which can't be passed to a program")
    if value and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRequest(f"{where}: {key!r} has an unpaired surrogate, {value!r}; write it in UTF-8")
    return value or ""


def flag(document: Document, key: str, *, where: str) -> bool:
    """The truth value at `key`, else false. Raises BadRequest."""
    return bool(_of_type(document, key, kind=bool, where=where))


def number(document: Document, key: str, *, where: str, default: int = 0) -> int:
    """The integer at `key`, else `default`. Raises BadRequest."""
    value = _of_type(document, key, kind=int, where=where)
    return default if value is None else int(value)


def texts(document: Document, key: str, *, where: str) -> tuple[str, ...]:
    """The list of strings at `key`. Raises BadRequest."""
    return tuple(text({key: one}, key, where=where) for one in _of_type(document, key, kind=list, where=where) or ())


def numbers(document: Document, key: str, *, where: str) -> tuple[int, ...]:
    """The list of integers at `key`. Raises BadRequest."""
    return tuple(number({key: one}, key, where=where) for one in _of_type(document, key, kind=list, where=where) or ())


def objects(document: Document, key: str, *, where: str) -> tuple[Document, ...]:
    """The list of objects at `key`; null ones are left out. Raises BadRequest."""
    entries = (
        _of_type({key: one}, key, kind=dict, where=where)
        for one in _of_type(document, key, kind=list, where=where) or ()
    )
    return tuple(one for one in entries if one is not None)


def object_(document: Document, key: str, *, where: str) -> Document:
    """The object at `key`, else an empty one. Raises BadRequest."""
    return _of_type(document, key, kind=dict, where=where) or {}


def pairs(document: Document, key: str, *, where: str) -> dict[str, str]:
    """A list of {name, value} as a dictionary; of a repeated name the last counts. Raises BadRequest."""
    members = objects(document, key, where=where)
    return {text(one, "name", where=where): text(one, "value", where=where) for one in members}


_NAMES = {str: "a string", bool: "true or false", int: "an integer", list: "a list", dict: "an object"}


def _of_type(document: Document, key: str, *, kind: type, where: str) -> Any:
    value = document.get(key)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise BadRequest(f"{where}: {key!r} must be {_NAMES[kind]}, but is {value!r}")
    return value
