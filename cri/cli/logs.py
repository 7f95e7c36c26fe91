# SPDX-License-Identifier: Apache-2.0
"""`clearpod logs`: what a container wrote, from the log file that the kubelet chose; `--follow` continues.

The daemon returns the file's path; the file is read here, with the rotated ones next to it.
"""

import argparse
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain

from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.logfile import Entry, LogFile
from cri.cli.parser import Parser
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest, NotFound

EXAMPLES = (
    ("clearpod logs default/web", "the log of the pod's only container"),
    ("clearpod logs default/web -c nginx -f --tail 20", "the last 20 lines of its container nginx, and new ones"),
    ("clearpod logs default/web --since 10m -t", "the last ten minutes, with the times"),
)
PAUSE_S = 0.2
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod logs`."""
    parser.take_container()
    parser.add_argument("-f", "--follow", action="store_true", help="follow the log until the container exits")
    parser.add_argument("--tail", type=int, metavar="LINES", help="show only this many lines from the end")
    parser.add_argument(
        "--since", metavar="TIME", help="show only lines after a time: 30s, 10m, 2h, 1d ago, or a time of RFC 3339"
    )
    parser.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print it: each stream to the stream of its name. Raises NotFound, BadRequest."""
    since = since_text(args.since, time.time()) if args.since else ""
    if args.tail is not None and args.tail < 0:
        raise BadRequest(f"--tail must be 0 or more, but it is {args.tail}")
    with connect(args.config) as daemon:
        container = lookup.container(daemon, args.name, name=args.container)
        path = daemon("ContainerStatus", container_id=container.id).status.log_path
        if not path:
            raise NotFound(f"the container {container.metadata.name} has no log file: its log_path was empty")
        with LogFile(path, _directory(daemon, container.pod_sandbox_id)) as file:
            parts = [_since(part, since) for part in file.parts(_seconds(since))]
            for one in chain.from_iterable(parts) if args.tail is None else _last(parts, args.tail):
                _write(one, has_time=args.timestamps)
            if args.follow:
                for one in _following(daemon, file, container_id=container.id):
                    _write(one, has_time=args.timestamps)
    return 0


def _directory(daemon: Daemon, pod_id: str) -> str:
    """The pod's log directory as the kubelet has given it; empty if it has not."""
    info = lookup.info(daemon("PodSandboxStatus", pod_sandbox_id=pod_id, verbose=True))
    return str(info.get("config", {}).get("log_directory", ""))


def since_text(text: str, now_s: float) -> str:
    """The time that is meant, as log files have it. Raises BadRequest."""
    if match := re.fullmatch(r"(\d{1,9})([smhd])", text):
        at = datetime.fromtimestamp(max(now_s - int(match[1]) * _UNITS[match[2]], 0), UTC)
    else:
        try:
            at = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadRequest(f"--since is 30s, 10m, 2h, 1d or a time as 2026-01-31T12:00:00Z, not {text!r}") from None
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")


def _seconds(since: str) -> float:
    return datetime.fromisoformat(f"{since}+00:00").timestamp() if since else 0.0


def _since(entries: Iterator[Entry], since: str) -> Iterator[Entry]:
    return (one for one in entries if one.time >= since)


def _last(parts: list[Iterator[Entry]], lines: int) -> Iterator[Entry]:
    """The entries of the last `lines` lines. No more files are read than have these."""
    kept: list[list[Entry]] = []
    for part in reversed(parts):
        kept = [*deque(_lines(part), maxlen=lines - len(kept)), *kept]
        if len(kept) >= lines:
            break
    return chain.from_iterable(kept)


def _lines(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """One line may have several entries."""
    line: list[Entry] = []
    for one in entries:
        line.append(one)
        if one.ends_line:
            yield line
            line = []
    if line:
        yield line


def _following(daemon: Daemon, file: LogFile, *, container_id: str) -> Iterator[Entry]:
    """New output, until the container has exited or was removed, and all of it was read."""
    while True:
        has_ended = _has_ended(daemon, container_id)
        yield from file.entries()
        if has_ended:
            return
        time.sleep(PAUSE_S)


def _has_ended(daemon: Daemon, container_id: str) -> bool:
    try:
        return bool(daemon("ContainerStatus", container_id=container_id).status.state == pb.CONTAINER_EXITED)
    except NotFound:
        return True


def _write(one: Entry, *, has_time: bool) -> None:
    """The bytes as they are: they are the program's, as if it ran here."""
    stream = sys.stderr if one.stream == "stderr" else sys.stdout
    data = one.text + (b"\n" if one.ends_line else b"")
    if has_time:
        data = one.time.encode() + b" " + data
    stream.flush()
    while data:
        data = data[os.write(stream.fileno(), data) :]
