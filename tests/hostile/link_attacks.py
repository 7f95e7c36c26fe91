# SPDX-License-Identifier: Apache-2.0
"""Attacks of a compromised agent against the daemon over its link, one class for each idea.

A pod whose hostname is the name of an attack runs it (`vmm.py`): it starts like a well-behaved guest, and attacks once
a container runs, so that the pod is known to the daemon when it begins.
"""

import time

from stage1.guest import codec
from stage1.guest import frame as f
from stage1.guest import messages as m
from tests.hostile.phantom import Phantom

MOST = 2**64 - 1
BATCH_BYTES = 1 << 17
"""How much of a flood is prepared at once."""


class Flood(Phantom):
    """Sends `burst()` as often as the daemon takes it, once a container runs."""

    every_s = 0.0
    reads = True

    def __init__(self, listener: object) -> None:
        super().__init__(listener)  # type: ignore[arg-type]
        self.last_s = 0.0

    def wants_input(self) -> bool:
        return self.reads or not self.ready

    def step(self) -> None:
        if self.ready and len(self.pending) < BATCH_BYTES and time.monotonic() - self.last_s >= self.every_s:
            self.last_s = time.monotonic()
            self.pending += self.link.outgoing() + self.burst()
        super().step()

    def frames(self, kind: int, payload: bytes, *, count: int, stream: int = 0) -> bytes:
        """So many frames in order, which are not kept for a resend."""
        made = []
        for _ in range(count):
            self.link._seq += 1
            made.append(f.pack(kind, payload, stream=stream, seq=self.link._seq))
        return b"".join(made)

    def burst(self) -> bytes:
        """What is sent again and again."""
        raise NotImplementedError

    @property
    def victim(self) -> m.Container:
        """A container that the daemon knows."""
        return next(iter(self.containers.values()), m.Container("0" * 64, stdio=m.Stdio(stdout=1)))


class HelloFlood(Flood):
    """HELLO every 4 ms; nothing is read and nothing acknowledged."""

    every_s, reads = 0.004, False

    def burst(self) -> bytes:
        hello = self.link._boot._replace(epoch=self.link.epoch, received=0, first=1)
        return self.link._key + f.pack(f.HELLO, codec.encode(hello))


class ExitedFlood(Flood):
    """The end of a container, again and again."""

    def burst(self) -> bytes:
        event = codec.encode_event(m.Exited(self.victim.id, 0, 1, False, time.time_ns()))
        return self.frames(f.EVENT, event, count=500)


class EventFlood(Flood):
    """The ends of containers that never were."""

    def burst(self) -> bytes:
        return self.frames(f.EVENT, codec.encode_event(m.Exited("f" * 64, 7, 1, False, 1)), count=500)


class EmptyData(Flood):
    """Data without a byte, which costs no credit."""

    def burst(self) -> bytes:
        stdio = self.victim.stdio or m.Stdio()
        return self.frames(f.DATA, b"", count=2000, stream=stdio.stdout)


class StrayData(Flood):
    """Data and credit on streams that were never opened."""

    def burst(self) -> bytes:
        credit = self.frames(f.CREDIT, f.credit_payload(1), count=200, stream=999_999)
        return self.frames(f.DATA, b"x" * 1000, count=100, stream=999_999) + credit


class StrayReplies(Flood):
    """Replies without requests."""

    def burst(self) -> bytes:
        return self.frames(f.REPLY, codec.encode(m.Reply(error="x" * 20000)), count=6, stream=0xFFFFFFF0)


class Garbage(Flood):
    """No frames at all, behind each key."""

    def burst(self) -> bytes:
        return b"\xff" * 65536


class Newlines(Flood):
    """Lines without a letter, as many as the credit allows: each becomes one of the log."""

    def burst(self) -> bytes:
        stdio = self.victim.stdio or m.Stdio()
        size = self.link.sendable(stdio.stdout)
        if size:
            self.link.send(stdio.stdout, b"\n" * size)
        return b""


class Trickle(Flood):
    """A frame with a large declared length, sent byte by byte."""

    every_s = 0.01

    def __init__(self, listener: object) -> None:
        super().__init__(listener)
        self.begun = False

    def burst(self) -> bytes:
        head, self.begun = b"" if self.begun else f.pack(f.EVENT, b"x" * f.MAX_PAYLOAD, seq=1)[: f.HEADER_BYTES], True
        return head + b"x"


class FutureAck(Flood):
    """The receipt of frames that were never sent."""

    every_s = 0.01

    def burst(self) -> bytes:
        return f.pack(f.ACK, seq=2**63)


class Silence(Flood):
    """Reads everything and never answers."""

    def answer(self, number: int, op: m.Op) -> None:
        if not self.ready or isinstance(op, m.Start):
            super().answer(number, op)

    def burst(self) -> bytes:
        return b""


class HugeNumbers(Phantom):
    """Counters of 2^64-1, for everything."""

    def numbers(self, op: m.Stats) -> m.Reply:
        cpu, memory = m.CpuStats(*[MOST] * 6), m.MemoryStats(*[MOST] * 14)
        stats = tuple(m.ContainerStats(one, MOST, cpu, memory, *[MOST] * 11) for one in self.containers)
        interface = m.InterfaceStats("eth0", *[MOST] * 8)
        return m.Reply(stats=stats, pod=m.PodStats(MOST, cpu, memory, MOST, (interface,), *[MOST] * 4))


class ManyInterfaces(Phantom):
    """Thousands of interfaces with names of their own, page after page."""

    def numbers(self, op: m.Stats) -> m.Reply:
        names = [f"if{op.first}-{number}" for number in range(800)]
        pod = m.PodStats(1, m.CpuStats(1), m.MemoryStats(1), interfaces=tuple(map(m.InterfaceStats, names)))
        return m.Reply(pod=pod._replace(next=op.first + 1))


class LateEnd(Phantom):
    """A container that ended 500 years from now."""

    def end(self, name: str) -> None:
        self.link.event(m.Exited(name, 0, 0, False, MOST))


class LoudErrors(Phantom):
    """Every command fails, with 30 KB of control characters for the reason."""

    def reply_to(self, op: m.Op) -> m.Reply:
        if isinstance(op, m.Exec | m.Stats):
            return m.Reply(m.FAILED, "\x1b[2J\r\n\0" * 5000)
        return super().reply_to(op)


class Inventor(Phantom):
    """After a restart of the daemon it has 3000 containers more, and takes 5 s to remove each."""

    def __init__(self, listener: object) -> None:
        super().__init__(listener)  # type: ignore[arg-type]
        self.later: list[tuple[float, int]] = []

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, m.Delete) and self.epochs > 1:
            return self.later.append((time.monotonic() + 5, number))
        return super().answer(number, op)

    def step(self) -> None:
        super().step()
        now = time.monotonic()
        for _, number in [one for one in self.later if one[0] <= now]:
            self.link.reply(number, m.Reply())
        self.later = [one for one in self.later if one[0] > now]

    def reply_to(self, op: m.Op) -> m.Reply:
        if isinstance(op, m.List) and self.epochs > 1:
            invented = tuple(m.Container(f"{number:064x}") for number in range(400))
            return m.Reply(containers=invented)
        return super().reply_to(op)


class Refuser(Phantom):
    """After a restart of the daemon it knows one container more, and can't remove it."""

    def reply_to(self, op: m.Op) -> m.Reply:
        if self.epochs > 1 and isinstance(op, m.List):
            return m.Reply(containers=(*self.containers.values(), m.Container("e" * 64)))
        if self.epochs > 1 and isinstance(op, m.Delete):
            return m.Reply(m.FAILED, "it can't be removed")
        return super().reply_to(op)


class Mute(Phantom):
    """After a restart of the daemon it sends its hello and nothing more."""

    def answer(self, number: int, op: m.Op) -> None:
        if self.epochs <= 1:
            super().answer(number, op)


class Slow(Phantom):
    """Answers everything after a second: no attack, only a guest that thrashes."""

    def answer(self, number: int, op: m.Op) -> None:
        time.sleep(1)
        super().answer(number, op)


ATTACKS: dict[str, type[Phantom]] = {
    "hello-flood": HelloFlood,
    "exited-flood": ExitedFlood,
    "event-flood": EventFlood,
    "empty-data": EmptyData,
    "stray-data": StrayData,
    "stray-replies": StrayReplies,
    "garbage": Garbage,
    "newlines": Newlines,
    "trickle": Trickle,
    "future-ack": FutureAck,
    "silence": Silence,
    "huge-numbers": HugeNumbers,
    "many-interfaces": ManyInterfaces,
    "late-end": LateEnd,
    "loud-errors": LoudErrors,
    "inventor": Inventor,
    "refuser": Refuser,
    "mute": Mute,
    "slow": Slow,
}
FLOODS = tuple(name for name, kind in ATTACKS.items() if issubclass(kind, Flood))
