# SPDX-License-Identifier: Apache-2.0
"""`clearpod rm`: removes pods, with their records and the logs of detached ones. The codes are those of podman's rm."""

import argparse

from cri.cli import lookup, shown, stop
from cri.cli.daemon import Daemon
from cri.cli.parser import Parser
from cri.config import load
from cri.logs import place
from cri.pb import runtime_pb2 as pb
from stage1.errors import NotFound, WrongState

EXAMPLES = (
    ("clearpod rm web", "remove a pod whose container has ended"),
    ("clearpod rm -f web", "stop it first, if it runs"),
    ("clearpod rm -fa", "remove all pods of `clearpod run --detach`"),
)
CODES = {NotFound: 1, WrongState: 2}


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod rm`."""
    parser.take_pods("remove")
    parser.add_argument("-f", "--force", action="store_true", help="also remove pods that run; implies --ignore")
    parser.take_time()
    parser.add_argument("-v", "--volumes", action="store_true", help="accepted, and always on: a pod keeps no volumes")
    parser.take_config()
    parser.epilog = "Exit codes: 1 if a pod does not exist, 2 if one still runs, 125 for another failure."


def main(args: argparse.Namespace) -> int:
    """Remove the pods, and print each name."""
    args.ignore = args.ignore or args.force
    config = load(args.config)
    with Daemon(config.socket_path) as daemon:
        code = lookup.each(daemon, args, act=lambda word: _remove(daemon, word, args=args), codes=CODES)
        place.remove_orphans(config.state_dir, {one.metadata.uid for one in lookup.pods(daemon)})
    return code


def _remove(daemon: Daemon, word: str, *, args: argparse.Namespace) -> None:
    pod = lookup.pod(daemon, word)
    containers = daemon("ListContainers").containers
    if any(one.pod_sandbox_id == pod.id and one.state == pb.CONTAINER_RUNNING for one in containers):
        if not args.force:
            raise WrongState(f"the pod {lookup.title(pod)} runs; stop it first, or remove it by `clearpod rm -f`")
        stop.end(daemon, pod, grace_s=args.time)
    daemon("RemovePodSandbox", pod_sandbox_id=pod.id)
    shown.write(word)
