# SPDX-License-Identifier: Apache-2.0
"""`clearpod stop`: stops pods. `end` is for `rm` too."""

import argparse
from contextlib import suppress
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import ANSWER_S, Daemon, connect
from cri.cli.parser import Parser
from cri.pb import runtime_pb2 as pb
from stage1.errors import WrongState

EXAMPLES = (
    ("clearpod stop web", "the stop signal of its image, 10 seconds later SIGKILL; then its virtual machine ends"),
    ("clearpod stop -t 0 web db", "kill them at once"),
    ("clearpod stop -a", "stop all pods of `clearpod run --detach`"),
)
GRACE_S = 10
FOREVER_S = 1 << 31


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod stop`."""
    parser.take_pods("stop")
    parser.take_time()
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Stop the pods, and print each name. 125 if one could not be stopped."""
    with connect(args.config) as daemon:

        def stop(word: str) -> None:
            end(daemon, lookup.pod(daemon, word), grace_s=args.time)
            shown.write(word)

        return lookup.each(daemon, args, act=stop)


def end(daemon: Daemon, pod: Any, *, grace_s: int) -> None:
    """Stop the containers, each within the grace period (negative: no limit), and end the VM. Raises PodError."""
    limit_s = grace_s + ANSWER_S if grace_s >= 0 else None
    for one in daemon("ListContainers").containers:
        if one.pod_sandbox_id == pod.id and one.state == pb.CONTAINER_RUNNING:
            timeout = grace_s if grace_s >= 0 else FOREVER_S
            with suppress(WrongState):  # a suspended pod's can't be asked, and ends with its VM
                daemon("StopContainer", limit_s=limit_s, container_id=one.id, timeout=timeout)
    daemon("StopPodSandbox", pod_sandbox_id=pod.id)
