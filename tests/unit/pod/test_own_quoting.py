# SPDX-License-Identifier: Apache-2.0
"""Words of command lines, read back as the systems read them: each reader here follows that system's source."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.pod import own_quoting

ODD = st.text(st.sampled_from("aB= \t\"'\\;&!#-,{}:"), max_size=12)


def read_by_linux(line: str) -> list[str]:
    """next_arg of Linux' lib/cmdline.c, again and again."""
    words, text = [], line.strip(" ")
    while text:
        is_quoted = text[0] == '"'
        inside, text = is_quoted, text[is_quoted:]
        equals = end = 0
        while end < len(text) and (inside or not text[end].isspace()):
            if not equals and text[end] == "=":
                equals = end
            inside ^= text[end] == '"'
            end += 1
        word, text = text[:end], text[end:].lstrip(" \t")
        if equals and word[equals + 1 : equals + 2] == '"':
            word = word[: equals + 1] + word[equals + 2 :].removesuffix('"')
        elif is_quoted:
            word = word.removesuffix('"')
        words.append(word)
    return words


def read_by_unikraft(line: str) -> list[str]:
    """uk_argnparse of lib/ukargparse."""
    words: list[str] = []
    inside, is_new = "", True
    for c in line:
        if c.isspace() and not inside:
            is_new = True
        elif c in "'\"" and inside in ("", c):
            inside = "" if inside else c
        else:
            words += [""] if is_new else []
            words[-1] += c
            is_new = False
    return words


def read_by_osvs_loader(line: str) -> list[str]:
    """loader_parse_cmdline of OSv's core/commands.cc."""
    words, is_escaped = [""], False
    for c in line:
        if not is_escaped and c == "\\":
            is_escaped = True
            continue
        if c in " \t\n" and not is_escaped:
            words.append("")
        else:
            words[-1] += c
        is_escaped = False
    return words


def read_by_osv(line: str) -> list[str]:
    """The grammar `command` there, of one command."""
    words, at = [], 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        is_quoted, word = line[at] == '"', ""
        at += is_quoted
        while at < len(line) and (line[at] != '"' if is_quoted else line[at] not in " ;&!"):
            at += line[at] == "\\"
            word, at = word + line[at], at + 1
        at += is_quoted
        words.append(word)
    return words


@given(ODD)
def test_linux_reads_what_is_written_and_the_rest_can_not_be_written(word: str) -> None:
    written = own_quoting.for_linux(word)
    if written is not None:
        assert read_by_linux(f"a {written} b=c") == ["a", word, "b=c"]
    else:
        assert '"' in word


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("A=1", "A=1"),
        ("A=two words", '"A=two words"'),
        ('A={"x":1}', 'A={"x":1}'),
        ('A={"x": 1}', '"A={"x": 1}"'),
        ('A="x"', 'A=""x""'),
        ("A=it's", "A=it's"),
        ("", '""'),
        ('==""', '==""""'),
        ('A="', None),
        ('A={"x": "a b"}', None),
    ],
)
def test_arguments_with_quotation_marks_that_linux_can_read(word: str, written: str | None) -> None:
    assert own_quoting.for_linux(word) == written


@given(ODD.filter(bool))
def test_unikraft_hermit_and_mirage_read_what_is_written(word: str) -> None:
    written = own_quoting.by_quotes(word)
    assert read_by_unikraft(f"a {written} b") == ["a", word, "b"]
    assert shlex.split(f"a {written} b") == ["a", word, "b"]
    assert not written.startswith("#"), "where a comment would begin"


@given(ODD)
def test_osv_reads_what_is_written(word: str) -> None:
    assert read_by_osvs_loader(own_quoting.for_osv_loader(f"--env={word}") + " app") == [f"--env={word}", "app"]
    assert read_by_osv(f"a {own_quoting.for_osv(word)} b") == ["a", word, "b"]


@pytest.mark.parametrize(("word", "written"), [("a", "a"), ("a b", "'a b'"), ("", "''"), ("it's", None), ("a\\", None)])
def test_rumpruns_texts_have_nothing_that_json_escapes(word: str, written: str | None) -> None:
    assert own_quoting.for_rumprun(word) == written
