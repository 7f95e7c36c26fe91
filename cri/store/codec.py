# SPDX-License-Identifier: Apache-2.0
"""NamedTuples to JSON values and back, by their annotations. Used by the stores only. Pure.

Bytes become base64. Unknown keys are ignored and missing ones get their defaults, so that a file can be read
by the version before and after.
"""

import base64
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def dump(value: Any) -> Any:
    """A value that `json.dumps` takes."""
    if hasattr(value, "_fields"):
        return {key: dump(item) for key, item in zip(value._fields, value, strict=True)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    return value


def load(kind: type[T], value: Any) -> T:
    """The `kind` that `dump` made `value` of. Raises ValueError when it is something else."""
    hashable: Any = kind
    try:
        return _loader(hashable)(value)  # type: ignore[no-any-return]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from None


@cache
def _loader(kind: Any) -> Callable[[Any], Any]:
    """What loads a `kind`, made once: a daemon that starts again loads hundreds."""
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
