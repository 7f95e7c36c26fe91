# SPDX-License-Identifier: Apache-2.0
"""`clearpod inspect`: all that the daemon knows of a pod or of a container, as JSON."""

import argparse
import json
from typing import Any

from google.protobuf.json_format import MessageToDict

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from stage1.errors import NotFound

EXAMPLES = (
    ("clearpod inspect default/web", "the pod: its VM, network, history and containers"),
    ("clearpod inspect default/web -c nginx", "its container nginx, with its OCI configuration"),
)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod inspect`."""
    parser.take_container()
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print the pod or container as one JSON object. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        result = inspected(daemon, args.name, container=args.container)
    shown.write(json.dumps(result, indent=2))
    return 0


def inspected(daemon: Daemon, word: str, *, container: str) -> dict[str, Any]:
    """The pod that is meant; or the container, if one is named."""
    if not container:
        try:
            pod = lookup.pod(daemon, word)
            return _merged(daemon("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True))
        except NotFound:
            if len(word) < lookup.SHOWN:
                raise
    one = lookup.container(daemon, word, name=container)
    return _merged(daemon("ContainerStatus", container_id=one.id, verbose=True))


def _merged(reply: Any) -> dict[str, Any]:
    """The answer, with the verbose part, which is JSON in a string, as a part of it."""
    result: dict[str, Any] = MessageToDict(reply)
    return {**result, "info": lookup.info(reply)}
