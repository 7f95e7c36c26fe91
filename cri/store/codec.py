# SPDX-License-Identifier: Apache-2.0
"""NamedTuples to JSON values and back, by their annotations. Used by the stores only. Pure.

Bytes become base64. Unknown keys are ignored and missing ones get their defaults, so that a file can be read
by the version before and after.
"""

import base64
import json
from collections.abc import Callable
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_PLAIN: dict[type, Callable[[Any], str]] = {
    str: json.encoder.encode_basestring_ascii,
    int: int.__repr__,
    bool: lambda value: "true" if value else "false",
}
"""Most of what there is, which JSON has too, and how it is written there."""


def dump(value: Any) -> Any:
    """A value that `json.dumps` takes."""
    if isinstance(value, tuple):
        items = [item if type(item) in _PLAIN else dump(item) for item in value]
        return dict(zip(value._fields, items, strict=True)) if hasattr(value, "_fields") else items
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


_encoded = json.JSONEncoder(separators=(",", ":")).encode


def _plain(value: Any) -> str:
    """Return what is no tuple as text."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    return str(value) if type(value) is int else _encoded(dump(value))


class Texts:
    """What `dump` makes of values, as JSON. Of values of these `kinds`, which are most of a file and are replaced and
    not changed, the text is kept from one call of `of` until the next.
    """

    def __init__(self, *kinds: type) -> None:
        self._kinds = kinds
        self._kept: dict[int, tuple[Any, str]] = {}

    def of(self, value: Any) -> str:
        """Return the value as text."""
        used: dict[int, tuple[Any, str]] = {}
        text = self._text(value, used)
        self._kept = used
        return text

    def _text(self, value: Any, used: dict[int, tuple[Any, str]]) -> str:
        if isinstance(value, self._kinds):
            # With the value itself, so that no other one gets its id.
            used[id(value)] = kept = self._kept.get(id(value)) or (value, _encoded(dump(value)))
            return kept[1]
        if (plain := _PLAIN.get(type(value))) is not None:
            return plain(value)
        if not isinstance(value, tuple):
            return _plain(value)
        texts = [self._text(item, used) if isinstance(item, tuple) else _plain(item) for item in value]
        if hasattr(value, "_fields"):
            texts = [f'"{key}":{text}' for key, text in zip(value._fields, texts, strict=True)]
            return f"{{{','.join(texts)}}}"
        return f"[{','.join(texts)}]"


def load(kind: type[T], value: Any) -> T:
    """The `kind` that `dump` made `value` of. Raises ValueError when it is something else."""
    hashable: Any = kind
    try:
        return _loader(hashable)(value)  # type: ignore[no-any-return]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from None


@cache
def _loader(kind: Any) -> Callable[[Any], Any]:
    """The function that loads a `kind`, created once: a daemon that is restarted loads hundreds."""
    if hasattr(kind, "_fields"):
        return _loader_of_fields(kind)
    if kind is bytes:
        return base64.b64decode
    if get_origin(kind) is tuple:
        return _loader_of_tuple(get_args(kind))

    def plain(value: Any) -> Any:
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{value!r} is not a {kind.__name__}")
        return value

    return plain


def _loader_of_fields(kind: Any) -> Callable[[Any], Any]:
    loaders = {name: _loader(hint) for name, hint in get_type_hints(kind).items()}
    return lambda value: kind(**{key: loaders[key](item) for key, item in value.items() if key in loaders})


def _loader_of_tuple(kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    loaders = [_loader(kind) for kind in kinds if kind is not Ellipsis]
    if kinds[-1] is Ellipsis:
        return lambda value: tuple(map(loaders[0], value))
    return lambda value: tuple(load(item) for load, item in zip(loaders, value, strict=True))
