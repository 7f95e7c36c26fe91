# SPDX-License-Identifier: Apache-2.0
"""Typed reading of JSON that others wrote: null and missing are the same, and another type is an error. Pure.

`where` begins each error and names the object that is read.
"""

from stage1.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]


def text(document: "Document", key: str, *, where: str) -> str:
    """The string at `key`, else "". Raises BadRequest."""
    found = _of_type(document, key, kind=str, where=where)
    if found and "\0" in found:
        raise BadRequest(f"{where}: {key!r} has a zero byte, which no program can be given")
    if found and not found.isascii() and any("\ud800" <= letter <= "\udfff" for letter in found):
        raise BadRequest(f"{where}: {key!r} has half of a character, {found!r}; write it in UTF-8")
    return found or ""


def flag(document: "Document", key: str, *, where: str) -> bool:
    """The truth value at `key`, else false. Raises BadRequest."""
    return bool(_of_type(document, key, kind=bool, where=where))


def number(document: "Document", key: str, *, where: str, default: int = 0) -> int:
    """The integer at `key`, else `default`. Raises BadRequest."""
    found = _of_type(document, key, kind=int, where=where)
    return default if found is None else int(found)


def texts(document: "Document", key: str, *, where: str) -> tuple[str, ...]:
    """The list of strings at `key`. Raises BadRequest."""
    return tuple(text({key: one}, key, where=where) for one in _of_type(document, key, kind=list, where=where) or ())


def numbers(document: "Document", key: str, *, where: str) -> tuple[int, ...]:
    """The list of integers at `key`. Raises BadRequest."""
    return tuple(number({key: one}, key, where=where) for one in _of_type(document, key, kind=list, where=where) or ())


def objects(document: "Document", key: str, *, where: str) -> "tuple[Document, ...]":
    """The list of objects at `key`; null ones are left out. Raises BadRequest."""
    found = (
        _of_type({key: one}, key, kind=dict, where=where)
        for one in _of_type(document, key, kind=list, where=where) or ()
    )
    return tuple(one for one in found if one is not None)


def object_(document: "Document", key: str, *, where: str) -> "Document":
    """The object at `key`, else an empty one. Raises BadRequest."""
    return _of_type(document, key, kind=dict, where=where) or {}


def pairs(document: "Document", key: str, *, where: str) -> dict[str, str]:
    """What a list of {name, value} says; a later one of a name counts. Raises BadRequest."""
    found = objects(document, key, where=where)
    return {text(one, "name", where=where): text(one, "value", where=where) for one in found}


_NAMES = {str: "a string", bool: "true or false", int: "an integer", list: "a list", dict: "an object"}


def _of_type(document: "Document", key: str, *, kind: type, where: str) -> "Any":
    found = document.get(key)
    if found is not None and (not isinstance(found, kind) or (kind is int and isinstance(found, bool))):
        raise BadRequest(f"{where}: {key!r} must be {_NAMES[kind]}, but is {found!r}")
    return found
