# SPDX-License-Identifier: Apache-2.0
"""`clearpod suspend`: saves a pod's guest to the disk and ends its VMM. The pod stays listed; `clearpod resume` is the
undo.
"""

import argparse

from cri.cli import lookup
from cri.cli.daemon import connect
from cri.cli.parser import Parser

EXAMPLES = (("clearpod suspend default/web", "free its memory and processors until it is resumed"),)
LIMIT_S = 180.0


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod suspend`."""
    parser.take_pod()
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Suspend the pod. Raises NotFound, and WrongState with the reason why it can't be suspended."""
    with connect(args.config) as daemon:
        daemon("SuspendPod", limit_s=LIMIT_S, pod_sandbox_id=lookup.pod(daemon, args.pod).id)
    return 0
