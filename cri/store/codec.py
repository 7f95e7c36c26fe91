# SPDX-License-Identifier: Apache-2.0
"""NamedTuples to JSON values and back, by their annotations. Used by the stores only. Pure.

Bytes become base64. Unknown keys are ignored and missing ones get their defaults, so that a file can be read
by the version before and after.
"""

import base64
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def dump(value: Any) -> Any:
    """A value that `json.dumps` takes."""
    if hasattr(value, "_asdict"):
        return {key: dump(item) for key, item in value._asdict().items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    return value


def load(kind: type[T], value: Any) -> T:
    """The `kind` that `dump` made `value` of. Raises ValueError when it is something else."""
    try:
        return _load(kind, value)  # type: ignore[no-any-return]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from None


def _load(kind: Any, value: Any) -> Any:
    if hasattr(kind, "_fields"):
        hints = _hints(kind)
        return kind(**{key: _load(hints[key], item) for key, item in value.items() if key in hints})
    if kind is bytes:
        return base64.b64decode(value)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            return tuple(_load(kinds[0], item) for item in value)
        return tuple(_load(one, item) for one, item in zip(kinds, value, strict=True))
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{value!r} is not a {kind.__name__}")
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
