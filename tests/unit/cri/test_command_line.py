# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line: every command is complete, and what belongs to another program is left to it."""

import argparse
from collections.abc import Iterator

import pytest

from cri.__main__ import main
from cri.cli import COMMANDS
from cri.cli.parser import Parser, make


def _all(parser: argparse.ArgumentParser) -> Iterator[Parser]:
    assert isinstance(parser, Parser)
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _all(below)


def test_every_command_has_examples_of_itself_and_every_option_a_help() -> None:
    whole = make(None)
    commands = {parser.prog.removeprefix("clearpod "): parser for parser in _all(whole)}
    for name in COMMANDS:
        assert commands[name].examples, name
        for words, what in commands[name].examples:
            assert f"clearpod {name}" in words and what, words
    for parser in commands.values():
        assert [action.dest for action in parser._actions if not action.help and action.option_strings] == []
        assert parser.format_help()


def _parser() -> Parser:
    parser = Parser(prog="x")
    parser.take_command(after=1)
    parser.add_argument("image", nargs="?", default="sample")
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-m", "--memory")
    parser.add_argument("-e", action="append", default=[])
    return parser


@pytest.mark.parametrize(
    "line, image, memory, rest",
    [
        ("", "sample", None, ""),
        ("alpine", "alpine", None, ""),
        ("-m 64m alpine ls -l -m 3", "alpine", "64m", "ls -l -m 3"),
        ("-im 64m alpine -- ls", "alpine", "64m", "ls"),
        ("-im64m alpine ls -- x", "alpine", "64m", "ls -- x"),
        ("--memory=64m -i alpine --help", "alpine", "64m", "--help"),
        ("--memory 64m -e A=1 -e B=2 -- ls -i", "sample", "64m", "ls -i"),
        ("-- -x", "sample", None, "-x"),
        ("-- --", "sample", None, "--"),
        ("alpine -- -- ls", "alpine", None, "-- ls"),
        ("-i -", "-", None, ""),
    ],
)
def test_the_words_of_the_container_are_left_to_it(line: str, image: str, memory: str | None, rest: str) -> None:
    args = _parser().parse_args(line.split())
    assert (args.image, args.memory, " ".join(args.rest)) == (image, memory, rest)


@pytest.mark.parametrize("line", ["--no-such", "-m", "--mem 5", "--no-such alpine -i", "-ix alpine"])
def test_a_wrong_line_is_one_line_and_the_code_of_the_parser(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = _parser()
    parser.wrong = 125
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(line.split())
    text = capsys.readouterr().err
    assert ended.value.code == 125
    assert text.startswith("x: ") and text.count("\n") == 1 and "x --help" in text


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("clearpod ")


def test_a_command_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rnu"])
    assert ended.value.code == 2 and "'rnu'" in capsys.readouterr().err
