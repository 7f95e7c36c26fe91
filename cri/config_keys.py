# SPDX-License-Identifier: Apache-2.0
"""Definitions of the configuration's tables: frozen records whose keys carry the rules for their values.

Used by `config_tables`, `policy` and `config`, which define them; `config_check`, which alone imports pydantic, reads
the rules. Must not import pydantic: a daemon, which needs only the records, would keep 11 MB of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

T = TypeVar("T", bound="Table")

RULES = "rules"
"""Under which a field's metadata have its `Rules`."""
ABSOLUTE = r"^/[^,\n]*$"
"""An absolute path that an option of a VMM can have in it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Arguments of `pydantic.Field` for the key, and properties that pydantic does not know."""

    field: Mapping[str, Any]
    """Such as `ge`, `pattern` and `strict`."""
    items: "Mapping[str, Any] | type[Table]"
    """The same for each item of a list, or the table of which there may be any number."""
    check: Callable[[Any], Any] | None = None
    """Returns the value that is taken, raises ValueError with the end of a sentence."""
    values: tuple[str, ...] = ()
    """Those that `check` lets pass, for the reference."""


NONE = Rules(field={}, items={})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Values are not converted, and unknown keys are refused. One with `why_not` can refuse values as a whole."""

    def but(self, **changes: Any) -> Self:
        """Return a copy of the table with other values."""
        return dataclasses.replace(self, **changes)

    def values(self) -> dict[str, Any]:
        """The values as plain dictionaries; `made` is the inverse."""
        return dataclasses.asdict(self)


def key(
    *,
    default: Any = dataclasses.MISSING,
    items: Mapping[str, Any] | type[Table] | None = None,
    check: Callable[[Any], Any] | None = None,
    values: tuple[str, ...] = (),
    **field: Any,
) -> Any:
    """A key with rules (`Rules`). Without a default it is required."""
    rules = Rules(field=field, items=items or {}, check=check, values=values)
    return dataclasses.field(default=default, metadata={RULES: rules})


def rules(field: "dataclasses.Field[Any]") -> Rules:
    """Return the rules for the values of a key."""
    known: Rules = field.metadata.get(RULES, NONE)
    return known


def table_of(field: "dataclasses.Field[Any]") -> type[Table] | None:
    """The table that a key has, once or any number of times; None of one that has values."""
    if isinstance(field.default, Table):
        return type(field.default)
    items = rules(field).items
    return items if isinstance(items, type) else None


def made(kind: type[T], values: Mapping[str, Any]) -> T:
    """The table that has these `values`, also when they come out of JSON. They are not checked."""
    return kind(**{one.name: _value(one, values[one.name]) for one in dataclasses.fields(kind)})


def _value(field: "dataclasses.Field[Any]", value: Any) -> Any:
    inner = table_of(field)
    if isinstance(value, (list, tuple)):
        return tuple(made(inner, one) if inner else one for one in value)
    return made(inner, value) if inner else value
