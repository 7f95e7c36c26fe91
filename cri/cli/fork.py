# SPDX-License-Identifier: Apache-2.0
"""`clearpod fork`: copies of a running pod, of its memory, disk and containers, each a pod of its own."""

import argparse

from cri.cli import lookup
from cri.cli.daemon import connect
from cri.cli.parser import Parser

EXAMPLES = (
    ("clearpod fork default/web", "a copy of the pod with its memory, named web-fork"),
    ("clearpod fork web --name try -n 4", "try-1 to try-4"),
)
LIMIT_S = 600.0


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod fork`."""
    parser.take_pod()
    parser.add_argument("--name", metavar="NAME", help="name of the copy; with -n a number is appended")
    parser.add_argument("-n", "--copies", metavar="N", default="1", help="number of copies")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Writes the copies' names and ids. Raises NotFound, and WrongState with the reason why it can't be copied."""
    with connect(args.config) as daemon:
        options = {"copies": args.copies, **({"name": args.name} if args.name is not None else {})}
        pod = lookup.pod(daemon, args.pod)
        made = daemon("ForkPod", limit_s=LIMIT_S, pod_sandbox_id=pod.id, options=options)
    for one in made.items:
        print(f"{lookup.title(one)}  {one.id}")
    return 0
