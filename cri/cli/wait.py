# SPDX-License-Identifier: Apache-2.0
"""`clearpod wait`: waits for the ends of containers. A daemon that is restarted meanwhile is asked again."""

import argparse
import time

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from stage1.errors import NotFound, Unavailable

EXAMPLES = (
    ("clearpod wait web", "wait for its only container, and print its exit code"),
    ("clearpod wait web -c nginx", "wait for its container nginx"),
)
RESTART_S = 60.0
"""How long the daemon may be away."""
PAUSE_S = 0.5


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod wait`."""
    parser.take_pods("wait for")
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="the pods' container of this name")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print the exit code of each container, in the order of the pods. 125 if one is not there."""
    with connect(args.config) as daemon:

        def wait(word: str) -> None:
            shown.write(str(exit_code(daemon, lookup.container(daemon, word, name=args.container).id)))

        return lookup.each(daemon, args, act=wait)


def exit_code(daemon: Daemon, container_id: str) -> int:
    """The container's exit code, once it has one. Raises NotFound when it is removed first, Unavailable."""
    lost_s = 0.0
    while True:
        try:
            return int(daemon("WaitContainer", limit_s=None, container_id=container_id).status.exit_code)
        except NotFound:
            raise NotFound(f"container {container_id[:13]} was removed before its exit code could be read") from None
        except Unavailable:
            lost_s = lost_s or time.monotonic()
            if time.monotonic() - lost_s > RESTART_S:
                raise
            time.sleep(PAUSE_S)
