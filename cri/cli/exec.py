# SPDX-License-Identifier: Apache-2.0
"""`clearpod exec`: runs one more program in a container, with our streams, and ends with its exit code."""

import argparse
import json
import os

from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from cri.cli.remote import Remote
from cri.cli.terminal import Terminal
from stage1.errors import BadRequest, PodError

EXAMPLES = (
    ("clearpod exec default/web ls /", "run ls in the only container of the pod"),
    ("clearpod exec -it default/web -c nginx sh", "a shell on a terminal in its container nginx"),
    ("clearpod exec -i default/web tar x < files.tar", "with standard input"),
)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod exec`."""
    parser.usage = "clearpod exec [-i] [-t] [-c NAME] POD COMMAND [ARGUMENT...]"
    parser.take_container()
    parser.add_argument("-i", "--interactive", action="store_true", help="forward standard input to the command")
    parser.add_argument("-t", "--tty", action="store_true", help="allocate a terminal")
    parser.take_config()
    parser.take_command(after=1)


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


def run(daemon: Daemon, container_id: str, *, command: list[str], **asked: bool) -> int:
    """Run `command`; `asked` are the fields of the CRI's ExecRequest that select its streams."""
    url = daemon("Exec", container_id=container_id, cmd=command, **asked).url
    with Terminal(asked["stdin"] and asked["tty"]), Remote(url) as remote:
        return exit_code(remote.run(has_input=asked["stdin"], has_terminal=asked["tty"]))


def exit_code(status: bytes) -> int:
    """The program's, from the status at the end. Raises PodError when it did not come to one."""
    try:
        document = json.loads(status)
        if document["status"] == "Success":
            return 0
        for cause in document.get("details", {}).get("causes", []):
            if cause["reason"] == "ExitCode":
                return int(cause["message"])
        sentence = str(document.get("message", "it failed"))
    except (ValueError, KeyError, TypeError, AttributeError):
        sentence = "the connection to the program was lost before its exit code arrived; see `clearpod why`"
    raise PodError(sentence)
