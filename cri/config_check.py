# SPDX-License-Identifier: Apache-2.0
"""Validates a configuration by pydantic, against the rules of its tables' keys, and finds the line that is wrong.

Called by `config` when there is a file; late, since the import of pydantic takes 0.2 s. The models are made of the
tables (`config_tables`), so each key is defined once.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from cri.config_tables import Table, made, rules, table_of

T = TypeVar("T", bound=Table)

_STRICT = ConfigDict(extra="forbid", strict=True)


class Refused(Exception):
    """The first thing that is wrong: the key's path, and a sentence about it."""

    def __init__(self, where: tuple[int | str, ...], sentence: str) -> None:
        self.where, self.sentence = where, sentence
        super().__init__(sentence)


def checked(kind: type[T], values: dict[str, Any]) -> T:
    """The table that `values` are, which a TOML file has. Raises Refused."""
    try:
        return made(kind, _model(kind).model_validate(values).model_dump())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = tuple(problem["loc"])
        raise Refused(where, _sentence(kind, problem, where=where)) from None


def _model(kind: type[Table]) -> type[BaseModel]:
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {one.name: _field(one, hints[one.name]) for one in dataclasses.fields(kind)}
    checks: dict[str, Any] = {"_whole": model_validator(mode="after")(_whole(kind))} if hasattr(kind, "why_not") else {}
    return create_model(kind.__name__, __config__=_STRICT, __validators__=checks, **fields)


def _whole(kind: type[Table]) -> Any:
    def check(model: BaseModel) -> BaseModel:
        if why := kind(**dict(model)).why_not():  # type: ignore[attr-defined]
            raise ValueError(why)
        return model

    return check


def _field(field: "dataclasses.Field[Any]", hint: Any) -> tuple[Any, Any]:
    """A key's type and its `pydantic.Field`."""
    known = rules(field)
    if isinstance(field.default, Table):
        model = _model(type(field.default))
        return model, Field(default_factory=model)
    if known.items:
        item: Any = _model(known.items) if isinstance(known.items, type) else Annotated[str, Field(**known.items)]
        hint = tuple[item, ...] if field.default is not None else tuple[item, ...] | None
    if known.check:
        hint = Annotated[hint, AfterValidator(known.check)]
    default = ... if field.default is dataclasses.MISSING else field.default
    return hint, Field(default=default, **known.field)


def _sentence(kind: type[Table], problem: Any, *, where: tuple[int | str, ...]) -> str:
    name = _dotted(where)
    if problem["type"] == "extra_forbidden":
        known = list(_known_keys(kind, where[:-1]))
        guess = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f'did you mean "{guess[0]}"?' if guess else f"known here: {', '.join(known)}"
        return f'unknown key "{name}"; {hint}'
    if problem["type"] == "missing":
        return f'the key "{name}" is missing'
    problem_text = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("String ", "")
    return f'"{name}" {problem_text}, but it is {problem["input"]!r}'


def _dotted(where: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in where if isinstance(part, str))


def _known_keys(kind: type[Table], path: tuple[int | str, ...]) -> Iterator[str]:
    """The keys that the table at this path may have."""
    for part in path:
        if isinstance(part, str):
            kind = next(inner for one in dataclasses.fields(kind) if one.name == part and (inner := table_of(one)))
    return (one.name for one in dataclasses.fields(kind))


def find_line(text: str, where: tuple[int | str, ...]) -> int:
    """The line, from 1, of the key at the path `where` ("vm", "vcpus" or "registries", 0, "prefix").

    tomllib keeps no positions, so this looks for the key below its table's header; for a key that is missing
    it is the header's line, and 1 when there is no header either.
    """
    table = ".".join(str(part) for part in where[:-1] if isinstance(part, str))
    key, nth = str(where[-1]), next((part for part in where if isinstance(part, int)), 0)
    if isinstance(where[-1], int):
        table, key = ".".join(p for p in where[:-2] if isinstance(p, str)), str(where[-2])
    best, current, seen = 1, "", {"": 0}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            current = header[1].replace('"', "")
            seen[current] = seen.get(current, -1) + 1
            if current in (table, f"{table}.{key}".lstrip(".")) and seen[current] == nth:
                best = number
        elif seen.get(current, 0) != (nth if current == table else 0):
            continue
        elif _assigns(line, key, table=table, current=current):
            return number
    return best


def _assigns(line: str, key: str, *, table: str, current: str) -> bool:
    """Whether `line`, below the header `current`, sets `key` of `table`: plainly, dotted or in an inline
    table.
    """
    plain = re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line)
    if not plain:
        return False
    full = f"{current}.{plain[1]}".lstrip(".")
    path = f"{table}.{key}".lstrip(".")
    return full == path or (full == table and re.search(rf"\b{re.escape(key)}\b\s*=", line) is not None)
