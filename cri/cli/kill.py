# SPDX-License-Identifier: Apache-2.0
"""`clearpod kill`: sends a signal to the first process of a container. The process decides how to react."""

import argparse

from cri.cli import lookup, shown
from cri.cli.daemon import connect
from cri.cli.parser import Parser
from cri.translate.container import signal_number

EXAMPLES = (
    ("clearpod kill web", "SIGKILL to the program of its only container"),
    ("clearpod kill -s HUP web", "another signal, by its name or number"),
)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod kill`."""
    parser.take_pods("signal")
    parser.add_argument(
        "-s", "--signal", default="KILL", help="a name such as HUP or SIGHUP, or a number; default KILL"
    )
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="the pods' container of this name")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Send the signal, and print each pod's name. 125 if one did not get it."""
    with connect(args.config) as daemon:

        def kill(word: str) -> None:
            one = lookup.container(daemon, word, name=args.container)
            daemon("KillContainer", container_id=one.id, timeout=signal_number(args.signal))
            shown.write(word)

        return lookup.each(daemon, args, act=kill)
