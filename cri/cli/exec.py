# SPDX-License-Identifier: Apache-2.0
"""`clearpod exec`: runs one more program in a container, with our streams, and ends with its exit code."""

import argparse
import json
import os
from typing import Any

from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from cri.cli.remote import STANDARD, Files, Remote
from cri.cli.terminal import Terminal
from stage1.errors import ERROR_KIND, BadRequest, NoCommand, NotExecutable, PodError

EXAMPLES = (
    ("clearpod exec default/web ls /", "run ls in the only container of the pod"),
    ("clearpod exec -it default/web -c nginx sh", "a shell on a terminal in its container nginx"),
    ("clearpod exec -i default/web tar x < files.tar", "with standard input"),
)

COMMANDS: dict[str, type[PodError]] = {kind.__name__: kind for kind in (NoCommand, NotExecutable)}
"""The errors about the program itself, by their names in the status."""


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod exec`."""
    parser.usage = "clearpod exec [-i] [-t] [-c NAME] POD COMMAND [ARGUMENT...]"
    parser.take_podmans_codes()
    parser.take_container()
    parser.add_argument("-i", "--interactive", action="store_true", help="forward standard input to the command")
    parser.add_argument("-t", "--tty", action="store_true", help="allocate a terminal")
    parser.take_config()
    parser.take_command(after=1)
    parser.epilog = (
        "Exit codes: 125 if clearpod failed, 126 if the command is not executable, 127 if it does not exist, else the "
        "command's own, 128 + n when signal n ended it."
    )


def main(args: argparse.Namespace) -> int:
    """The exit code of the program. Raises NotFound, BadRequest, WrongState, PodError."""
    if not args.rest:
        raise BadRequest("a command is missing: clearpod exec POD COMMAND")
    if args.tty and args.interactive and not os.isatty(0):
        raise BadRequest("with -it standard input must be a terminal; leave out -t")
    with connect(args.config) as daemon:
        container = lookup.container(daemon, args.name, name=args.container)
        asked = {"stdin": args.interactive, "stdout": True, "stderr": not args.tty, "tty": args.tty}
        return run(daemon, container.id, command=args.rest, **asked)


def run(daemon: Daemon, container_id: str, *, command: list[str], files: Files = STANDARD, **asked: Any) -> int:
    """Run `command`; `asked` are the fields of the CRI's ExecRequest that select its streams, which are `files` here.
    Return its exit code. Raises what `exit_code` raises.
    """
    url = daemon("Exec", container_id=container_id, cmd=command, **asked).url
    with Terminal(asked["stdin"] and asked["tty"]), Remote(url, files) as remote:
        return exit_code(remote.run(has_input=asked["stdin"], has_terminal=asked["tty"]))


def exit_code(status: bytes) -> int:
    """The program's, from the status at the end. Raises NoCommand or NotExecutable when it can't be run, PodError for
    what else kept it from ending.
    """
    kind: type[PodError] = PodError
    try:
        document = json.loads(status)
        if document["status"] == "Success":
            return 0
        for cause in document.get("details", {}).get("causes", []):
            if cause["reason"] == "ExitCode":
                return int(cause["message"])
            if cause["reason"] == ERROR_KIND:
                kind = COMMANDS.get(cause["message"], PodError)
        sentence = str(document.get("message", "it failed"))
    except (ValueError, KeyError, TypeError, AttributeError):
        sentence = "the connection to the program was lost before its exit code arrived; see `clearpod why`"
    raise kind(sentence)
