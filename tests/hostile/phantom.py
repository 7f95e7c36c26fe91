# SPDX-License-Identifier: Apache-2.0
"""A guest without processes, for a program in the VMM's place: every container starts, runs and ends as requested.

The well-behaved one is the neighbour in the tests of this folder; the attackers of `link_attacks` are derived from it.
It runs inside the jail, so it needs nothing but its descriptors.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable

from stage1.guest import messages as m
from tests.fakes.guest_link import Asked, EpochBegan, GuestLink

READ_BYTES = 1 << 18
TICK_S = 0.05


class Phantom:
    """Serves the link on `listener`. `ready` is set once a container was started: then an attack may begin;
    `was_loaded` where it goes on from what another one was saved as.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        boot_id = int.from_bytes(os.urandom(8), "little")
        can = {"volumes": True, "raw": True, "guest_volumes": True, "copies": True}
        self.link = GuestLink(m.Hello(boot_id=boot_id, kernel="phantom", **can))
        self.connection: socket.socket | None = None
        self.pending = b""
        self.containers: dict[str, m.Container] = {}
        self.ready = self.was_loaded = False
        self.ended = False
        self.epochs = 0
        self.runs = threading.Event()
        self.runs.set()

    def run(self) -> None:
        """Serve until Shutdown."""
        while not self.ended:
            self.step()
        while self.connection is not None and self.pending:
            self.write()

    def step(self) -> None:
        """One round of the loop; attackers add to it."""
        self.runs.wait()
        if self.connection is None:
            self.connection, _ = self.listener.accept()
            self.connection.setblocking(False)
            self.link.connected()
        self.pending += self.link.outgoing()
        readable, writable, _ = select.select(
            [self.connection] if self.wants_input() else [], [self.connection] if self.pending else [], [], TICK_S
        )
        if writable:
            self.write()
        if readable:
            self.read()

    def wants_input(self) -> bool:
        """Whether it reads what the host sends."""
        return True

    def write(self) -> None:
        """As much as the connection takes."""
        assert self.connection is not None
        try:
            self.pending = self.pending[self.connection.send(self.pending[:READ_BYTES]) :]
        except BlockingIOError:
            return
        except OSError:
            self.disconnect()

    def read(self) -> None:
        """What has come, and answer it."""
        assert self.connection is not None
        try:
            data = self.connection.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            return self.disconnect()
        for item in self.link.receive(data):
            if isinstance(item, Asked) and item.op is not None:
                self.answer(item.id, item.op)
            elif isinstance(item, EpochBegan):
                self.epochs += 1
        return None

    def disconnect(self) -> None:
        """The host is gone; another may come."""
        assert self.connection is not None
        self.connection.close()
        self.connection, self.pending = None, b""
        self.link.disconnected()

    def answer(self, number: int, op: m.Op) -> None:
        """Reply to one request."""
        self.link.reply(number, self.reply_to(op))

    def reply_to(self, op: m.Op) -> m.Reply:
        """The reply of a well-behaved agent."""
        if isinstance(op, m.Create):
            stdio = op.stdio or m.Stdio()
            self.containers[op.id] = m.Container(op.id, m.CREATED, stdio)
            self.link.open_stream(stdio.stdout)
            self.link.open_stream(stdio.stderr)
        elif isinstance(op, m.Start):
            self.containers[op.id] = self.containers[op.id]._replace(state=m.RUNNING, started_ns=time.time_ns(), pid=2)
            self.ready = True
        elif isinstance(op, m.Signal):
            self.end(op.container)
        elif isinstance(op, m.Delete):
            self.containers.pop(op.id, None)
        elif isinstance(op, m.Exec):
            self.run_exec(op)
        elif isinstance(op, m.List):
            return m.Reply(containers=tuple(self.containers.values()))
        elif isinstance(op, m.Stats):
            return self.numbers(op)
        elif isinstance(op, m.Shutdown):
            self.ended = True
        return m.Reply(pid=2)

    def command(self, name: str, do: Callable[[], object]) -> object:
        """What the monitor of its VMM returns for a command; None is nothing, bytes are sent as they are."""
        return do()

    def end(self, name: str) -> None:
        """Report a container's end, once."""
        result = self.containers.get(name)
        if result is not None and result.state == m.RUNNING:
            self.containers[name] = result._replace(state=m.EXITED, exit_code=137, finished_ns=time.time_ns())
            self.link.event(m.Exited(name, 0, 137, False, time.time_ns()))

    def run_exec(self, op: m.Exec) -> None:
        """A command that prints `tick` and succeeds."""
        stdio = op.stdio or m.Stdio()
        if stdio.stdout:
            self.link.open_stream(stdio.stdout)
            self.link.send(stdio.stdout, b"tick\n", end=True)
        if stdio.stderr:
            self.link.open_stream(stdio.stderr)
            self.link.send(stdio.stderr, b"", end=True)
        self.link.event(m.Exited(op.container, op.exec, 0, False, time.time_ns()))

    def numbers(self, op: m.Stats) -> m.Reply:
        """Of every started container."""
        cpu, memory = m.CpuStats(1000, 500, 500), m.MemoryStats(usage=4096, limit=1 << 26)
        now = time.monotonic_ns()
        stats = tuple(m.ContainerStats(one.id, now, cpu, memory) for one in self.containers.values())
        return m.Reply(stats=stats, pod=m.PodStats(now, cpu, memory, interfaces=(m.InterfaceStats("eth0", 1, 1),)))
