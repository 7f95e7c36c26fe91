# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line: made from the commands' modules, of which one command loads only its own.

Called by `cri.__main__` with the arguments of one call, and with None by what describes all commands: the reference,
completion, the manual pages. It runs nothing, and imports no command but those that are asked for.
"""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from cri import __version__
from cri.cli import COMMANDS

WRONG = 2
"""The exit code for a wrong command line."""
FAULT = 125
"""The same of the commands whose exit codes are podman's, and their code for what clearpod itself could not do."""
PRECEDING = "preceding_config"
"""Where the value of a --config is kept that precedes the command or its action."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with examples, whose error is one line, and which can end with another program's command."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self.wrong = WRONG
        """The exit code of `error`."""
        self.examples: tuple[tuple[str, str], ...] = ()
        """(command line, what it does), as shown at the end of the help."""
        self._before_command: int | None = None

    def take_command(self, *, after: int) -> None:
        """The arguments behind the first `after` positional ones, or behind `--`, are not ours: args.rest has them."""
        self._before_command = after
        self.set_defaults(rest=[])

    def all(self) -> "Iterator[Parser]":
        """This one and those of its sub-commands."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    yield from below.all()

    def take_pod(self) -> None:
        """The pod that `lookup.pod` finds: args.pod."""
        self.add_argument("pod", metavar="POD", help="id, name, NAMESPACE/NAME or uid, or a unique prefix")

    def take_container(self) -> None:
        """The container that `lookup.container` finds: args.name and args.container."""
        self.add_argument("name", metavar="POD", help="a pod, or the id of a container")
        self.add_argument("-c", "--container", default="", metavar="NAME", help="the pod's container of this name")

    def take_podmans_codes(self) -> None:
        """A command that podman has too: 125 is its exit code for each error but those of the container's command."""
        self.wrong = FAULT
        self.set_defaults(fault=FAULT)

    def take_pods(self, what: str) -> None:
        """Several pods, or all of `run --detach`: args.pods, args.all and args.ignore. `what` is done to them."""
        self.take_podmans_codes()
        text = "ids, names, NAMESPACE/NAME or uids, or unique prefixes"
        self.add_argument("pods", metavar="POD", nargs="*", help=text)
        self.add_argument("-a", "--all", action="store_true", help=f"{what} all pods of `clearpod run --detach`")
        self.add_argument("-i", "--ignore", action="store_true", help="pass over pods that do not exist")

    def take_time(self) -> None:
        """The grace period in seconds: args.time."""
        what = "seconds from the stop signal to SIGKILL; default 10, -1: wait for its end"
        self.add_argument("-t", "--time", type=int, default=10, metavar="SECONDS", help=what)

    def take_authfile(self) -> None:
        """The file with credentials for registries: args.authfile."""
        what = "the file with credentials; default $REGISTRY_AUTH_FILE, else podman's and docker's"
        self.add_argument("--authfile", metavar="FILE", default="", help=what)

    def take_credentials(self) -> None:
        """The credentials of a pull: args.creds and args.authfile."""
        what = "credentials for the registry; better is `clearpod login`, since arguments can be read by all users"
        self.add_argument("--creds", metavar="USER:PASSWORD", default="", help=what)
        self.take_authfile()

    def take_config(self) -> None:
        """The option --config, which all commands have that read the daemon's configuration."""
        self.add_argument("--config", metavar="FILE", help="the daemon's configuration file")

    def take_actions(self, *, metavar: str = "ACTION", dest: str = "action", required: bool = True) -> Any:
        """Return what makes the sub-commands. --config may precede their names, other options of theirs may not."""
        self.add_argument("--config", dest=PRECEDING, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return self.add_subparsers(metavar=metavar, dest=dest, required=required)

    def error(self, message: str) -> NoReturn:
        """End with one line on standard error."""
        shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in message)
        self.exit(self.wrong, f"{self.prog}: {shown}; see `{self.prog} --help`\n")

    def format_help(self) -> str:
        """The help with its examples."""
        text = super().format_help()
        if not self.examples:
            return text
        width = max(self._get_formatter()._width, 20)
        lines = [
            (f"  {command}", textwrap.indent(textwrap.fill(what, width - 6), " " * 6))
            for command, what in self.examples
        ]
        shown = "\n".join("\n".join(pair) for pair in lines)
        return f"{text}\nexamples:\n{shown}\n"

    def _print_message(self, message: str, file: Any = None) -> None:
        """Like argparse's, which would hide errors of standard output, such as a full disk or a closed pipe."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's; a --config that precedes the command is the command's."""
        parsed = super().parse_args(args, namespace)
        preceding = parsed.__dict__.pop(PRECEDING, None)
        if preceding is not None and getattr(parsed, "command", None) is not None:
            if not hasattr(parsed, "config"):
                self.error("this command has no --config")
            parsed.config = preceding if parsed.config is None else parsed.config
        return parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, without the arguments that belong to the container's command."""
        self._refuse_preceding(args or ())
        if args is not None and self._before_command is not None:
            args, rest = self._split(list(args), self._before_command)
        else:
            rest = None
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:  # reported here, since the help of the parser above is less specific
            self.error(f"unknown: {' '.join(unknown)}")
        if rest is not None:
            known.rest = rest
        return known, unknown

    def _refuse_preceding(self, arguments: Sequence[str]) -> None:
        """End when an option precedes the command or action that has it: argparse would take its value for a name."""
        actions = next((one for one in self._actions if isinstance(one, argparse._SubParsersAction)), None)
        option = next(iter(_without_config(arguments)), "").partition("=")[0]
        if not actions or not any(one in actions.choices for one in arguments):
            return
        if option.startswith("-") and option not in ("--", *self._option_string_actions):
            self.error(f"{option} precedes {actions.metavar}: options follow it, except --config")

    def _split(self, arguments: list[str], after: int) -> tuple[list[str], list[str]]:
        """Split our options from the container's command: argparse would take the command's options for ours."""
        at = 0
        while at < len(arguments) and after and arguments[at] != "--":
            is_option = arguments[at].startswith("-") and arguments[at] != "-"
            after -= not is_option
            at += 1 + (is_option and self._takes_next(arguments[at]))
        rest = arguments[at:]
        return arguments[:at], rest[1:] if rest[:1] == ["--"] else rest

    def _takes_next(self, word: str) -> bool:
        """Whether the value of option `option` is the next argument."""
        if word.startswith("--"):
            return self._has_value(word)
        for at, letter in enumerate(word[1:], start=1):
            if self._has_value(f"-{letter}"):
                return at == len(word) - 1
        return False

    def _has_value(self, option: str) -> bool:
        action = self._option_string_actions.get(option)
        return action is not None and action.nargs is None


class Command(NamedTuple):
    """What a command's module has for it in its `COMMANDS`."""

    examples: tuple[tuple[str, str], ...]
    """(command line, what it does), at least one."""
    add_arguments: Callable[[Parser], None]
    """Adds its options."""
    main: Callable[[argparse.Namespace], int]
    """Does it, and returns the exit code; raises PodError."""


def _without_config(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments behind each --config at their beginning."""
    while arguments and arguments[0].partition("=")[0] == "--config":
        arguments = arguments[1 if "=" in arguments[0] else 2 :]
    return arguments


def make(arguments: Sequence[str] | None) -> Parser:
    """The parser for the command line `arguments`; of all commands if it is None."""
    parser = Parser(prog="clearpod", description="Each pod in its own small virtual machine.")
    parser.add_argument("-V", "--version", action="version", version=f"clearpod {__version__}")
    commands = parser.take_actions(metavar="COMMAND", dest="command", required=False)
    chosen = None if arguments is None else next((one for one in _without_config(arguments) if one[:1] != "-"), "")
    for name, (_, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if chosen in (None, name):
            _fill(command, name)
    parser.epilog = "`clearpod COMMAND --help` has the options of a command, with examples."
    return parser


def _fill(parser: Parser, name: str) -> None:
    command: Command = importlib.import_module(f"cri.cli.{COMMANDS[name][0]}").COMMANDS[name]
    parser.set_defaults(main=command.main)
    parser.examples = command.examples
    command.add_arguments(parser)
