# SPDX-License-Identifier: Apache-2.0
"""`clearpod logs`: what a container wrote, from the log file that the kubelet chose; `--follow` continues.

The daemon returns the file's path; the file is read here (`LogFile`), while the daemon writes it. The log is in the
CRI's format (`cri.logs.entries`), in the file at its path and the rotated ones in the same directory: NAME.DATE-TIME,
and later NAME.DATE-TIME.gz. Pods that mount the kubelet's log directory can write there, so files are opened through
`beneath`, and a line that is no entry is skipped.
"""

import argparse
import gzip
import os
import re
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain
from types import TracebackType
from typing import NamedTuple

from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest, NotFound, PodError
from stage1.linux import beneath

READ_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 20
MOST_ROTATED = 1000
"""Files that were put away; kubelet keeps five."""
_ROTATED = re.compile(r"\.\d{8}-\d{6}(\.gz)?")
_DAMAGE = (OSError, EOFError, zlib.error)


class Entry(NamedTuple):
    """A line, or a part of one that continues in the next entry. `time` is RFC3339Nano in UTC."""

    time: str
    stream: str
    ends_line: bool
    text: bytes


class LogFile:
    """The log at `path`, which is below `directory` or else in its own; a context. Raises NotFound, NotPlain."""

    def __init__(self, path: str, directory: str) -> None:
        root = directory.rstrip("/")
        if not root or not path.startswith(f"{root}/"):
            root = os.path.dirname(path)
        self._rest, self._name, self._last = b"", path[len(root) + 1 :], ""
        try:
            with ExitStack() as undo:
                self._root = undo.enter_context(beneath.Root(root))
                self._fd = self._root.open(self._name)
                self._known = self._rotated()
                self._undo = undo.pop_all()
        except FileNotFoundError:
            raise NotFound(f"there is no log file {path}; it may have been removed") from None

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._undo.close()

    def parts(self, since_s: float = 0.0) -> list[Iterator[Entry]]:
        """The log's parts that can be read now: each rotated file that was written to after `since_s` (1970), oldest
        first, then `entries`. A part is read while it is iterated over.
        """
        return [*(self._whole(name) for name in self._known if self._is_since(name, since_s)), self.entries()]

    def _is_since(self, name: str, since_s: float) -> bool:
        status = self._root.stat(name) or self._root.stat(f"{name}.gz")
        return status is not None and status.st_mtime >= since_s and not self._is_open(name)

    def _is_open(self, name: str) -> bool:
        status = self._root.stat(name)
        return status is not None and os.path.samestat(status, os.fstat(self._fd))

    def entries(self) -> Iterator[Entry]:
        """What can be read now and was not read yet, also in files that were rotated meanwhile."""
        while True:
            yield from self._rest_of_file()
            if not self._is_rotated():
                return
            yield from self._rest_of_file()  # what was written until it was renamed
            for name, after in self._missed():
                yield from (one for one in self._whole(name) if one.time > after)
            if not self._open_next():
                return

    def _rest_of_file(self) -> Iterator[Entry]:
        while data := os.read(self._fd, READ_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for one in _parsed(lines):
                self._last = one.time
                yield one
            self._rest = self._rest[:MOST_LINE_BYTES]

    def _is_rotated(self) -> bool:
        """Whether another file is at the path now. There may be none for a moment, or from now on."""
        return self._root.exists(self._name) and not self._is_open(self._name)

    def _missed(self) -> list[tuple[str, str]]:
        """Rotated files after the one that is open, each with the time up to which its entries were read.

        The open one is found by its inode. If it was compressed meanwhile, only times tell which entries are new.
        """
        before, self._known = self._known, self._rotated()
        mine = next((at for at, name in enumerate(self._known) if self._is_open(name)), None)
        if mine is not None:
            return [(name, "") for name in self._known[mine + 1 :]]
        return [(name, self._last) for name in self._known if name not in before]

    def _open_next(self) -> bool:
        try:
            opened = self._root.open(self._name)
        except FileNotFoundError:
            return False
        os.close(self._fd)
        self._fd, self._rest = opened, b""
        return True

    def _rotated(self) -> list[str]:
        """Return the rotated files of the log, oldest first, without their .gz."""
        directory, _, base = self._name.rpartition("/")
        names = self._root.names(directory or ".")
        mine = [name for name in names if name.startswith(base) and _ROTATED.fullmatch(name[len(base) :])]
        stems = sorted({name.removesuffix(".gz") for name in mine})[-MOST_ROTATED:]
        return [f"{directory}/{name}" if directory else name for name in stems]

    def _whole(self, name: str) -> Iterator[Entry]:
        """All entries of a file that was put away, as far as it can be read."""
        try:
            fd, is_packed = self._opened(name)
            with os.fdopen(fd, "rb") as raw:
                file, rest = gzip.GzipFile(fileobj=raw) if is_packed else raw, b""
                while data := file.read(READ_BYTES):
                    *lines, rest = (rest + data).split(b"\n")
                    yield from _parsed(lines)
                    rest = rest[:MOST_LINE_BYTES]
        except FileNotFoundError:
            pass  # the kubelet has just removed it
        except (PodError, *_DAMAGE) as error:
            sys.stderr.write(f"clearpod: warning: the rest of {name} can't be read: {error}\n")

    def _opened(self, name: str) -> tuple[int, bool]:
        """The file itself, or what it was compressed to, and which it is. Raises FileNotFoundError, NotPlain."""
        try:
            return self._root.open(name), False
        except FileNotFoundError:
            return self._root.open(f"{name}.gz"), True


def _parsed(lines: list[bytes]) -> Iterator[Entry]:
    return (one for line in lines if (one := parse(line)))


def parse(line: bytes) -> Entry | None:
    """TIME STREAM F|P TEXT; None for anything else."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    time = parts[0].decode("ascii", "replace")
    return Entry(time, parts[1].decode(), b"F" in parts[2].split(b":"), parts[3])


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


COMMANDS = {"logs": Command(EXAMPLES, add_arguments, main)}
