# SPDX-License-Identifier: Apache-2.0
"""`clearpod console`: what the guest's kernel and agent wrote to their console; of a pod that runs, or has ended.

The file is in the pod's directory, which only root can read. A guest wrote it: nothing of it controls the terminal.
"""

import argparse
import codecs
import os
import time
from collections.abc import Iterator

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.errors import BadRequest, NotFound
from stage1.linux import beneath

EXAMPLES = (
    ("clearpod console default/web", "the last 200 lines"),
    ("clearpod console default/web -f", "follow the console until the guest has ended"),
)
PAUSE_S = 0.2
READ_BYTES = 1 << 16
KEPT_BYTES = 1 << 20
"""The daemon keeps about so much of a console's end."""


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod console`."""
    parser.take_pod()
    parser.add_argument("-f", "--follow", action="store_true", help="follow the console until the guest has ended")
    parser.add_argument("--tail", type=int, default=200, metavar="LINES", help="lines from the end (default: 200)")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print a pod's console. Raises NotFound, BadRequest, KernelError."""
    if args.tail < 0:
        raise BadRequest(f"--tail must be 0 or more, but it is {args.tail}")
    with connect(args.config) as daemon:
        pod = lookup.find(lookup.pods(daemon), args.pod)
        if pod is None:
            return _failed(daemon, args.pod)
        info = lookup.info(daemon("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True))
        with beneath.Root(info["directory"]) as own:
            fd = own.open(engine.CONSOLE, os.O_RDONLY)
        try:
            for text in _read(daemon, fd, pod_id=pod.id, lines=args.tail, follows=args.follow):
                shown.write(text)
        finally:
            os.close(fd)
    return 0


def _failed(daemon: Daemon, word: str) -> int:
    """Print the console lines that were kept of a sandbox that could not be started. Raises NotFound."""
    failure = lookup.find_failed(lookup.failed(daemon), word)
    if failure is None:
        raise NotFound(f"there is no pod {word!r}; `clearpod ps -a` lists those that exist")
    for line in failure["console"]:
        shown.write(shown.printable(line))
    return 0


def _read(daemon: Daemon, fd: int, *, pod_id: str, lines: int, follows: bool) -> Iterator[str]:
    """Whole lines that can be printed."""
    os.lseek(fd, max(os.fstat(fd).st_size - KEPT_BYTES, 0), os.SEEK_SET)
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while True:
        is_over = not follows or not _is_ready(daemon, pod_id)
        while data := os.read(fd, READ_BYTES):
            rest += decoder.decode(data)
        *whole, rest = rest.replace("\0", "").split("\n")
        if is_over and rest:
            whole.append(rest)
        if shown_now := whole[-lines:] if lines else []:
            yield "\n".join(shown.printable(line.removesuffix("\r")) for line in shown_now)
        if is_over:
            return
        lines = KEPT_BYTES  # what comes from now on is shown whole
        time.sleep(PAUSE_S)


def _is_ready(daemon: Daemon, pod_id: str) -> bool:
    try:
        return bool(daemon("PodSandboxStatus", pod_sandbox_id=pod_id).status.state == pb.SANDBOX_READY)
    except NotFound:
        return False


COMMANDS = {"console": Command(EXAMPLES, add_arguments, main)}
