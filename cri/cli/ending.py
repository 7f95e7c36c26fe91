# SPDX-License-Identifier: Apache-2.0
"""`clearpod stop`, `kill`, `wait` and `rm`: pods are stopped, get signals, are waited for and are removed.

Each takes several pods (`Parser.take_pods`), with podman's options and exit codes.
"""

import argparse
import time
from contextlib import suppress
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import ANSWER_S, Daemon, connect
from cri.cli.parser import Command, Parser
from cri.config import load
from cri.logs import place
from cri.pb import runtime_pb2 as pb
from stage1.errors import NotFound, Unavailable, WrongState

STOP_EXAMPLES = (
    ("clearpod stop web", "the stop signal of its image, 10 seconds later SIGKILL; then its virtual machine ends"),
    ("clearpod stop -t 0 web db", "kill them at once"),
    ("clearpod stop -a", "stop all pods of `clearpod run --detach`"),
)
FOREVER_S = 1 << 31


def add_stop(parser: Parser) -> None:
    """The options of `clearpod stop`."""
    parser.take_pods("stop")
    parser.take_time()
    parser.take_config()


def stop(args: argparse.Namespace) -> int:
    """Stop the pods, and print each name. 125 if one could not be stopped."""
    with connect(args.config) as daemon:

        def one(word: str) -> None:
            end(daemon, lookup.pod(daemon, word), grace_s=args.time)
            shown.write(word)

        return lookup.each(daemon, args, act=one)


def end(daemon: Daemon, pod: Any, *, grace_s: int) -> None:
    """Stop the containers, each within the grace period (negative: no limit), and end the VM. Raises PodError."""
    limit_s = grace_s + ANSWER_S if grace_s >= 0 else None
    for one in daemon("ListContainers").containers:
        if one.pod_sandbox_id == pod.id and one.state == pb.CONTAINER_RUNNING:
            timeout = grace_s if grace_s >= 0 else FOREVER_S
            with suppress(WrongState):  # a suspended pod's can't be asked, and ends with its VM
                daemon("StopContainer", limit_s=limit_s, container_id=one.id, timeout=timeout)
    daemon("StopPodSandbox", pod_sandbox_id=pod.id)


KILL_EXAMPLES = (
    ("clearpod kill web", "SIGKILL to the program of its only container"),
    ("clearpod kill -s HUP web", "another signal, by its name or number"),
)


def add_kill(parser: Parser) -> None:
    """The options of `clearpod kill`."""
    parser.take_pods("signal")
    parser.add_argument(
        "-s", "--signal", default="KILL", help="a name such as HUP or SIGHUP, or a number; default KILL"
    )
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="the pods' container of this name")
    parser.take_config()


def kill(args: argparse.Namespace) -> int:
    """Send the signal, and print each pod's name. 125 if one did not get it."""
    from cri.translate.container import signal_number  # late: with it comes half of the daemon

    with connect(args.config) as daemon:

        def one(word: str) -> None:
            container = lookup.container(daemon, word, name=args.container)
            daemon("KillContainer", container_id=container.id, timeout=signal_number(args.signal))
            shown.write(word)

        return lookup.each(daemon, args, act=one)


WAIT_EXAMPLES = (
    ("clearpod wait web", "wait for its only container, and print its exit code"),
    ("clearpod wait web -c nginx", "wait for its container nginx"),
)
RESTART_S = 60.0
"""How long the daemon may be away."""
PAUSE_S = 0.5


def add_wait(parser: Parser) -> None:
    """The options of `clearpod wait`."""
    parser.take_pods("wait for")
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="the pods' container of this name")
    parser.take_config()


def wait(args: argparse.Namespace) -> int:
    """Print the exit code of each container, in the order of the pods. 125 if one is not there."""
    with connect(args.config) as daemon:

        def one(word: str) -> None:
            shown.write(str(exit_code(daemon, lookup.container(daemon, word, name=args.container).id)))

        return lookup.each(daemon, args, act=one)


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


RM_EXAMPLES = (
    ("clearpod rm web", "remove a pod whose container has ended"),
    ("clearpod rm -f web", "stop it first, if it runs"),
    ("clearpod rm -fa", "remove all pods of `clearpod run --detach`"),
)
CODES = {NotFound: 1, WrongState: 2}


def add_rm(parser: Parser) -> None:
    """The options of `clearpod rm`."""
    parser.take_pods("remove")
    parser.add_argument("-f", "--force", action="store_true", help="also remove pods that run; implies --ignore")
    parser.take_time()
    parser.add_argument("-v", "--volumes", action="store_true", help="accepted, and always on: a pod keeps no volumes")
    parser.take_config()
    parser.epilog = "Exit codes: 1 if a pod does not exist, 2 if one still runs, 125 for another failure."


def rm(args: argparse.Namespace) -> int:
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
        end(daemon, pod, grace_s=args.time)
    daemon("RemovePodSandbox", pod_sandbox_id=pod.id)
    shown.write(word)


COMMANDS = {
    "stop": Command(STOP_EXAMPLES, add_stop, stop),
    "kill": Command(KILL_EXAMPLES, add_kill, kill),
    "wait": Command(WAIT_EXAMPLES, add_wait, wait),
    "rm": Command(RM_EXAMPLES, add_rm, rm),
}
