# SPDX-License-Identifier: Apache-2.0
"""What stage1 uses of `typing` while it runs, in place of all of it; goes into the stage1 image under that name.

A program of rkt's lives for some milliseconds, and `typing` with the library's named tuples would take more than half
of them. Classes made here behave as those of the library as far as stage1 goes; a test compares them.
"""

from _collections import _tuplegetter

TYPE_CHECKING = False


class Any:
    """In annotations only."""


class BinaryIO:
    """In annotations, of tomllib as the next two."""


class Callable:
    """As BinaryIO, with parameters."""

    def __class_getitem__(cls, parameters):
        return cls


class Tuple(Callable):
    """As Callable."""


class Protocol:
    """In annotations, and as a base of classes that nobody makes."""


class Row(tuple):
    """The base of all named tuples. A class has _fields, and _defaults for the last of them."""

    __slots__ = ()
    _fields = ()
    _field_defaults = {}  # noqa: RUF012  as the library has it

    def __new__(cls, *values, **named):
        """A tuple of all fields, from arguments in order, by name, and defaults."""
        if named or len(values) != len(cls._fields):
            values = _filled(cls, values, named)
        return tuple.__new__(cls, values)

    def __repr__(self):
        pairs = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({pairs})"

    def __getnewargs__(self):
        """For copies."""
        return tuple(self)

    @classmethod
    def _make(cls, values):
        values = tuple(values)
        if len(values) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(values)}")
        return tuple.__new__(cls, values)

    def _asdict(self):
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **named):
        values = [named.pop(name, value) for name, value in zip(self._fields, self, strict=True)]
        if named:
            raise TypeError(f"Got unexpected field names: {list(named)!r}")
        return tuple.__new__(type(self), values)


def _filled(cls, values, named):
    """All values of a tuple of which some were named or left out."""
    fields = cls._fields
    if len(values) > len(fields):
        raise TypeError(f"{cls.__name__} takes {len(fields)} fields, not {len(values)}")
    known = {**cls._field_defaults, **dict(zip(fields, values, strict=False)), **named}
    if (
        len(known) != len(fields)
        or not all(name in known for name in fields)
        or set(named) & set(fields[: len(values)])
    ):
        raise TypeError(
            f"{cls.__name__} takes the fields {', '.join(fields)}; it was given {len(values)} and {[*named]}"
        )
    return [known[name] for name in fields]


class _Maker(type):
    """Turns `class X(NamedTuple)` into a tuple class."""

    def __new__(meta, name, bases, body):
        if not bases:
            return type.__new__(meta, name, bases, body)
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body[field] for field in fields if field in body}
        body.update({field: _tuplegetter(number, "") for number, field in enumerate(fields)})
        body["_fields"], body["_field_defaults"], body["__slots__"] = fields, defaults, ()
        body["__match_args__"] = fields
        return type(name, (Row, *bases[1:]), body)


class NamedTuple(metaclass=_Maker):
    """`class X(NamedTuple):` with annotated fields."""
