# SPDX-License-Identifier: Apache-2.0
"""`clearpod resume`: resumes a pod that `clearpod suspend` has suspended."""

import argparse

from cri.cli import lookup
from cri.cli.daemon import connect
from cri.cli.parser import Parser
from cri.cli.suspend import LIMIT_S

EXAMPLES = (("clearpod resume default/web", "its programs continue where they were"),)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod resume`."""
    parser.take_pod()
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Resume the pod. Raises NotFound, and WrongState when it can't be resumed here."""
    with connect(args.config) as daemon:
        daemon("ResumePod", limit_s=LIMIT_S, pod_sandbox_id=lookup.pod(daemon, args.pod).id)
    return 0
