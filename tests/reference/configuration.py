# SPDX-License-Identifier: Apache-2.0
"""The page of the configuration's keys and the example with all of them, from its tables."""

import dataclasses
import importlib
import json
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from cri import changes
from cri.config import Config
from cri.config_tables import Table, rules, table_of
from cri.policy import Rule
from tests.reference import docstrings
from tests.reference.table import link, page, table

MANY = ("registries", "policy.rules")
"""Tables of which there may be any number."""
SAMPLES = {"registries.prefix": "registry.example", "policy.rules.namespaces": ["example"]}
"""In the example, of the keys without a default."""
_TYPES = {str: "text", int: "number", float: "number", bool: "`true`, `false`"}
_BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


class Key(NamedTuple):
    """One key by its full name; `default` is None where there is none."""

    name: str
    field: "dataclasses.Field[Any]"
    type: Any
    default: Any
    meaning: str


def every_key(kind: type[Table] = Config, above: str = "") -> Iterator[Key]:
    """All keys, in the order of the source; the values of a table before the tables in it."""
    meanings = docstrings.of_class(importlib.import_module(kind.__module__), kind.__name__)
    inner, hints = [], get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{above}{field.name}"
        if below := table_of(field):
            inner.append((below, f"{name}."))
        else:
            default = None if field.default is dataclasses.MISSING else field.default
            usual = "As above, for the pods of these namespaces." if kind is Rule else ""
            yield Key(name, field, hints[field.name], default, meanings.get(field.name) or usual)
    for below, prefix in inner:
        yield from every_key(below, prefix)


def _type(of: Any) -> str:
    origin, arguments = get_origin(of), get_args(of)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is types.UnionType:
        return _type(arguments[0])
    return _TYPES[of]


def _bounds(field: "dataclasses.Field[Any]") -> str:
    return ", ".join(_BOUNDS[name].format(value) for name, value in rules(field).field.items() if name in _BOUNDS)


def _default(key: Key) -> str:
    if key.default is None:
        return "that of `policy`" if key.name.startswith("policy.rules.m") else "needed"
    if key.default in ("", ()):
        return "none" if key.default == () else "empty"
    values = key.default if isinstance(key.default, tuple) else (key.default,)
    return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in values)


def _row(key: Key) -> tuple[str, ...]:
    known = rules(key.field).values
    values = "; ".join(filter(None, (_type(Literal[known] if known else key.type), _bounds(key.field))))
    at = "reload" if changes.is_live(key.name) else "start"
    default = (
        "that of `policy`" if key.name.startswith("policy.rules.") and key.field.default is None else _default(key)
    )
    return f"`{key.name}`", values, default, link(key.meaning), at


def reference() -> str:
    """docs/reference/configuration.md."""
    intro = (
        "The keys of `/etc/clearpod/config.toml`; how the file is found, checked and read again is in "
        "[admin/configuration.md](../admin/configuration.md); [config.example.toml](config.example.toml) has them all. "
        "*In force*: at the next `reload` (SIGHUP), or at the next `start` of the daemon only."
    )
    heads = ("key", "values", "default", "meaning", "in force")
    return page("Configuration keys", intro, table(heads, map(_row, every_key())))


def _value(key: Key) -> str:
    value = SAMPLES.get(key.name, key.default)
    if value is None:
        (value,) = (one.default for one in every_key() if one.name == key.name.replace(".rules", ""))
    return json.dumps(value)


def example() -> str:
    """docs/reference/config.example.toml."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Made by scripts/gen-reference from the code. The daemon's configuration: every key with its default.",
    ]
    section = ""
    for key in every_key():
        of, _, name = key.name.rpartition(".")
        if of != section:
            section = of
            lines += ["", f"[[{of}]]  # any number of these; none is the default" if of in MANY else f"[{of}]"]
        if of != "policy.rules":
            lines += textwrap.wrap(key.meaning, 118, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{name} = {_value(key)}")
    return "\n".join(lines) + "\n"
