# SPDX-License-Identifier: Apache-2.0
"""The modules that stand for the library's in the stage1 image do what those do, as far as stage1 asks for it."""

import copy
import importlib.util
import json
import typing
from pathlib import Path

import pytest

LEAN = Path(__file__).parents[3] / "images/stage1-aci/lean"


def lean(file):
    spec = importlib.util.spec_from_file_location(f"lean_{Path(file).stem}", LEAN / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_with(named_tuple):
    """The same class by the library's or by ours."""

    class Point(named_tuple):
        """Has everything that ours have: defaults, methods, properties, class methods."""

        x: int
        y: int = 2
        z: "tuple[int, ...]" = ()

        @property
        def total(self):
            return self.x + self.y

        @classmethod
        def at(cls, x):
            return cls(x)

        def moved(self):
            return self._replace(x=self.x + 1)

    return Point


POINTS = [made_with(typing.NamedTuple), made_with(lean("typing.py").NamedTuple)]


@pytest.mark.parametrize(
    "do",
    [
        lambda c: c(1),
        lambda c: c(1, 3),
        lambda c: c(1, z=(4,)),
        lambda c: c(z=(4,), x=1, y=0),
        lambda c: c(1).total,
        lambda c: c.at(5).moved(),
        lambda c: c(1)._asdict(),
        lambda c: c._make([1, 2, 3]),
        lambda c: (c._fields, c._field_defaults, c.__name__, c.__doc__),
        lambda c: repr(c(1)),
        lambda c: c(1) == (1, 2, ()) and hash(c(1)) == hash((1, 2, ())) and isinstance(c(1), tuple),
        lambda c: [*map(type, (c(1).x, c(1)[1], c(1)[-1]))],
        lambda c: copy.copy(c(1)),
        lambda c: type(c(1)._replace(y=9)).__name__,
        lambda c: c.__match_args__,
    ],
)
def test_a_named_tuple_of_ours_is_as_the_librarys(do):
    theirs, ours = map(do, POINTS)
    assert (theirs, str(theirs)) == (ours, str(ours))


@pytest.mark.parametrize(
    "do",
    [
        lambda c: c(),
        lambda c: c(1, 2, 3, 4),
        lambda c: c(1, x=2),
        lambda c: c(1, w=2),
        lambda c: c(y=2),
        lambda c: c(1)._replace(w=1),
        lambda c: c._make([1]),
        lambda c: setattr(c(1), "x", 2),
        lambda c: setattr(c(1), "new", 2),
    ],
)
def test_what_a_named_tuple_refuses_ours_refuses_too(do):
    kinds = []
    for one in POINTS:
        with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
            do(one)
        kinds.append(caught.type)
    allowed = {(TypeError, TypeError), (AttributeError, AttributeError), (ValueError, TypeError)}
    assert tuple(kinds) in allowed  # until Python 3.12 _replace raised ValueError


@pytest.mark.parametrize(
    "text",
    [
        "1", " [1, 2.5, -3e4, true, false, null] \n",
        '{"a": {"b": ["\\u00e9", "\\ud83d\\ude00", "x\\ny"]}}', '""', "{}",
        "\t[\r\n]", '"\N{LATIN SMALL LETTER E WITH ACUTE}"', "[NaN, Infinity, -Infinity]", '{"a": 1, "a": 2}',
    ],
)  # fmt: skip
def test_json_reads_and_writes_the_same(text):
    ours = lean("json/__init__.py")
    for given in (text, text.encode()):
        assert repr(ours.loads(given)) == repr(json.loads(given))
    value = json.loads(text)
    assert ours.dumps(value) == json.dumps(value)
    assert ours.dumps(value, indent=4) == json.dumps(value, indent=4)
    assert ours.dumps(value, sort_keys=True, separators=(",", ":")) == json.dumps(
        value, sort_keys=True, separators=(",", ":")
    )


@pytest.mark.parametrize("text", ["", " ", "[1", "{'a': 1}", "[1] x", "nul", '"\x00"', '{"a" 1}', "[1,]", "\n\n  ]"])
def test_json_refuses_the_same_with_the_same_message(text):
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(text)
    with pytest.raises(ValueError) as ours:
        lean("json/__init__.py").loads(text)
    assert str(ours.value) == str(theirs.value)


def test_the_error_has_the_librarys_message_and_numbers():
    theirs, ours = json.JSONDecodeError, lean("json/decoder.py").JSONDecodeError
    for at in (0, 3, 5):
        a, b = theirs("odd", "ab\ncd\ne", at), ours("odd", "ab\ncd\ne", at)
        assert (str(a), a.msg, a.pos, a.lineno, a.colno) == (str(b), b.msg, b.pos, b.lineno, b.colno)


def test_json_takes_a_second_document_from_where_the_first_ends():
    text = '[1] {"a": 2}'
    assert lean("json/__init__.py").JSONDecoder().raw_decode(text, 4) == json.JSONDecoder().raw_decode(text, 4)


def test_what_json_has_not_is_refused():
    with pytest.raises(TypeError, match="type set"):
        lean("json/__init__.py").dumps({"a": {1}})
