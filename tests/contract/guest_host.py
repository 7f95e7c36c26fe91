# SPDX-License-Identifier: Apache-2.0
"""The host's end in the contract tests of guests: a client that records what it receives, and checks its order."""

import time
from collections.abc import Callable

from stage1.errors import NotFound
from stage1.guest import messages as m
from stage1.guest.link import DataSeen, EventSeen
from tests.contract.guest_rigs import Rig
from tests.fakes.guest_client import GuestClient

TIMEOUT_S = 60.0
MIB = 1 << 20
# 1 MiB with a rule that shows what is missing: 131072 lines of 7 digits, whose beginnings a shell can write fast.
COUNT = ["sh", "-c", "seq 1000000 1131071"]
COUNTED = b"".join(b"%d\n" % n for n in range(1_000_000, 1_131_072))


class Host:
    """A host process that talks to a guest. It remembers what arrived, and how far it acknowledged."""

    def __init__(self, rig: Rig, key: bytes, streams: tuple[int, ...] = ()) -> None:
        self.rig, self.key = rig, key
        self.client = GuestClient(rig.factory, key)
        for stream in streams:
            self.client.open_stream(stream)
        self.hello = self.client.hello(rig.hello_s, alive=rig.alive)
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.exits: dict[tuple[str, int], m.Exited] = {}
        self.last_seq = 0

    def create(self, name: str, argv: list[str], *, stdin: int = 0, tty: bool = False) -> m.Stdio:
        """Create a container with streams of its own."""
        self.rig.bundle(name, argv, tty=tty)
        stdio = self.streams(len(self.data) * 3 + 1, stdin=bool(stdin), tty=tty)
        self.client.call(m.Create(name, self.rig.lower, True, stdio))
        return stdio

    def streams(self, first: int, *, stdin: bool = False, tty: bool = False) -> m.Stdio:
        """Open streams for a process."""
        stdio = m.Stdio(first if stdin else 0, first + 1, 0 if tty else first + 2, tty, 80, 24)
        for stream in (stdio.stdin, stdio.stdout, stdio.stderr):
            if stream:
                self.client.open_stream(stream)
                self.data[stream] = bytearray()
        return stdio

    def run(self, name: str, argv: list[str], *, stdin: int = 0, tty: bool = False) -> m.Stdio:
        """Create and start."""
        stdio = self.create(name, argv, stdin=stdin, tty=tty)
        assert self.client.call(m.Start(name)).pid > 0
        return stdio

    def take(self, *, acknowledge: bool = True, timeout_s: float = 0.2) -> int:
        """Take in what arrives; return how many bytes of data that was."""
        count = 0
        for item in self.client.pump(timeout_s):
            assert isinstance(item, DataSeen | EventSeen)
            assert item.seq > self.last_seq, "a frame came twice"
            self.last_seq = item.seq
            if isinstance(item, DataSeen):
                assert item.stream not in self.ended, "data after the end"
                self.data.setdefault(item.stream, bytearray()).extend(item.data)
                self.ended |= {item.stream} if item.end else set()
                count += len(item.data)
            else:
                key = item.event.container, item.event.exec
                assert key not in self.exits, "an exit came twice"
                self.exits[key] = item.event
            if acknowledge:
                self.client.done(item)
        return count

    def until(self, done: Callable[[], bool], *, acknowledge: bool = True) -> None:
        """Take until `done()`."""
        deadline = time.monotonic() + TIMEOUT_S
        while not done():
            assert time.monotonic() < deadline, f"still waiting; so far {self.exits} {self.ended}"
            self.take(acknowledge=acknowledge)

    def exit_of(self, name: str, number: int = 0) -> m.Exited:
        """Wait for the end of a process."""
        self.until(lambda: (name, number) in self.exits)
        return self.exits[name, number]


def lives(host: Host, name: str, number: int) -> bool:
    """Whether an exec that was killed is still there after a moment."""
    for _ in range(100):
        try:
            host.client.call(m.Signal(name, number, 18))
        except NotFound:
            return False
        time.sleep(0.02)
    return True
