# SPDX-License-Identifier: Apache-2.0
"""Validates a configuration by pydantic, against the rules of its tables' keys.

Called by `config` when there is a file, late: a daemon that had it in its own process would keep 11 MB. The models are
made of the tables (`config_keys`), so each key is defined once.
"""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from cri.config_keys import Table, made, rules, table_of

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
