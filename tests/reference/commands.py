# SPDX-License-Identifier: Apache-2.0
"""The pages of the command line and of exit codes, from argparse and the error tree."""

import argparse
from collections.abc import Iterator

from cri.cli import COMMANDS
from cri.cli.parser import Parser, make
from stage1 import errors
from stage1.entry import dispatch
from tests.reference.docstrings import first_sentence
from tests.reference.table import page, table


def _parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Those of the sub-commands, by name."""
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        if action.option_strings == ["--config"]:
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        names = action.option_strings or [str(value)]
        shown = f" {value}" if action.option_strings and value else ""
        yield f"`{', '.join(names)}{shown}`", (action.help or "").replace("%%", "%")


MOST_IN_TABLE = 8
"""A command with at least so many options has a section of its own."""


def _commands() -> Iterator[tuple[Parser, str]]:
    """Each command with its summary, followed by its sub-commands."""
    commands = _parsers(make(None))
    for name, (_, summary) in COMMANDS.items():
        yield from _with_those_below(commands[name], summary)


def _with_those_below(parser: argparse.ArgumentParser, summary: str) -> Iterator[tuple[Parser, str]]:
    assert isinstance(parser, Parser)
    yield parser, f"{summary[0].upper()}{summary[1:].removesuffix('.')}."
    helps = {choice.dest: choice.help for a in parser._actions for choice in getattr(a, "_choices_actions", ())}
    for name, one in _parsers(parser).items():
        yield from _with_those_below(one, helps[name])


def _section(parser: Parser, summary: str) -> Iterator[str]:
    yield f"## {parser.prog}"
    yield summary
    if parser.usage:
        yield f"    {parser.usage}"
    yield table(("option", "meaning"), [*_rows(parser)])
    if parser.epilog:
        yield parser.epilog


def reference() -> str:
    """docs/reference/commands.md."""
    intro = (
        "Options of each command of `clearpod`. Each has `--config FILE`, which may also precede the command; without "
        "it, /etc/clearpod/config.toml is read if it exists. `clearpod COMMAND --help` has examples."
    )
    sections, rows = [], []
    for parser, summary in _commands():
        if len([*_rows(parser)]) >= MOST_IN_TABLE:
            sections += _section(parser, summary)
        else:
            more = f" {' '.join(parser.epilog.split())}" if parser.epilog else ""
            rows += [(f"**{parser.prog}**", summary + more), *_rows(parser)]
    return page("Command line", intro, *sections, "## Others", table(("command and options", "meaning"), rows))


def _tree(of: type[errors.PodError], depth: int = 0) -> Iterator[tuple[type[errors.PodError], int]]:
    yield of, depth
    for below in of.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _tree(below, depth + 1)


def exit_codes() -> str:
    """docs/reference/exit-codes.md."""
    rows = [
        (f"`{one.__name__}`", f"`{one.grpc_code}`", str(one.exit_code), first_sentence(one.__doc__))
        for one, _ in _tree(errors.PodError)
    ]
    intro = (
        "The errors of clearpod, with the status of an RPC and the exit code of a command. `INTERNAL`, and exit code 1 "
        "with a traceback, are bugs of clearpod."
    )
    others = table(
        ("exit code", "of", "when"),
        [
            ("0", "every command", "success"),
            ("1", "`check`, `images verify`", "a check failed; each failure is named"),
            ("2", "every command", "the command line is wrong"),
            ("0 to 255", "`run`, `exec`", "the code of the container's command; 128 + n when signal n ended it"),
            ("1, 2", "`rm`", "there is no such pod; it runs"),
            ("125", "those that podman has too", "a wrong option, or any of the errors above"),
            ("126, 127", "`run`, `exec`", "the command can't be executed; it does not exist"),
            ("130", "every command", "it was interrupted (SIGINT)"),
            ("141", "every command", "the reader of its output is gone (SIGPIPE)"),
            (str(dispatch.FAILED), "programs of the stage1 image under rkt", "any failure that is not the app's own"),
        ],
    )
    return page(
        "Errors and exit codes",
        intro,
        table(("error", "gRPC status", "exit code", "meaning"), rows),
        "## Other exit codes",
        others,
    )
