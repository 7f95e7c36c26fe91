# SPDX-License-Identifier: Apache-2.0
"""A fake guest that attacks its host: like any other until a command `attack NAME` is to be run in one of its
containers; from then on it sends the bytes of that attack, and does nothing else.

Used by the tests of the link's limits, in a process of its own (tests/cri/daemon.py). Each attack is what a program can
send that has taken the agent's place: it knows the key, and counts as the agent does.
"""

import itertools
import os
import select
import time
from collections.abc import Callable, Iterator

from stage1.guest import codec
from stage1.guest import frame as f
from stage1.guest import messages as m
from tests.fakes.guest import FakeGuest
from tests.fakes.guest_link import Asked

NOBODY = "f" * 64
CHUNK = 65536


class Victim:
    """What an attack knows: the guest's link, a container of its that runs, and the number of that one's output."""

    def __init__(self, guest: "HostileGuest", container: str) -> None:
        self.guest, self.container = guest, container
        link = guest._link
        self.key, self.seq, self.received = link._key, link._seq, link._received
        self.stdout = next(job.stdio.stdout for job in guest._containers.jobs if job.owner == container)

    def frame(self, kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
        """The next frame."""
        self.seq += 1
        return f.pack(kind, payload, stream=stream, seq=self.seq, flags=flags)

    def exited(self, container: str, number: int = 0, **fields: int) -> bytes:
        """An event."""
        return self.frame(f.EVENT, codec.encode_event(m.Exited(container, number, **fields)))

    def hello(self, **fields: int) -> bytes:
        """Marker and HELLO, without being greeted."""
        true = {"epoch": self.guest._link.epoch, "received": self.received, "first": self.seq + 1}
        return self.key + f.pack(f.HELLO, codec.encode(self.guest._link._boot._replace(**true | fields)))


Attack = Callable[[Victim], Iterator[bytes]]
ATTACKS: dict[str, Attack] = {}


def attack(made: Attack) -> Attack:
    """Register an attack under its name."""
    ATTACKS[made.__name__] = made
    return made


def fast(piece: Callable[[], bytes]) -> Iterator[bytes]:
    """As many as fit into a large write, again and again."""
    while True:
        chunk = bytearray()
        while len(chunk) < CHUNK:
            chunk += piece()
        yield bytes(chunk)


@attack
def hello_each_4_ms(on: Victim) -> Iterator[bytes]:
    """After much output, for which the host sends credit that is never acknowledged: each HELLO asks for all of it."""
    for _ in range(150):
        yield on.frame(f.DATA, bytes(f.MAX_DATA), stream=on.stdout)
        time.sleep(0.002)  # within the credit
    while True:
        yield on.hello()
        time.sleep(0.004)


@attack
def hello_flood(on: Victim) -> Iterator[bytes]:
    """The same without a pause."""
    return fast(on.hello)


@attack
def hello_of_another_epoch(on: Victim) -> Iterator[bytes]:
    """Hellos for an epoch that no host has."""
    return fast(lambda: on.hello(epoch=77))


@attack
def hello_of_another_boot(on: Victim) -> Iterator[bytes]:
    """As if the VM had been booted anew."""
    yield on.hello(boot_id=4711)


@attack
def exited_again(on: Victim) -> Iterator[bytes]:
    """The end of a container that the host knows."""
    return fast(lambda: on.exited(on.container))


@attack
def exited_nobody(on: Victim) -> Iterator[bytes]:
    """The end of what does not exist."""
    return fast(lambda: on.exited(NOBODY))


@attack
def exited_execs(on: Victim) -> Iterator[bytes]:
    """The ends of execs that were never begun."""
    numbers = itertools.count(1000)
    return fast(lambda: on.exited(on.container, next(numbers)))


@attack
def exited_in_the_year_2554(on: Victim) -> Iterator[bytes]:
    """A time that no int64 holds."""
    yield on.exited(on.container, unix_ns=2**64 - 1)


@attack
def unknown_events(on: Victim) -> Iterator[bytes]:
    """Of a kind that the host does not know."""
    return fast(lambda: on.frame(f.EVENT, b"\x7a\x00"))


@attack
def empty_data(on: Victim) -> Iterator[bytes]:
    """Output without any byte."""
    return fast(lambda: on.frame(f.DATA, stream=on.stdout))


@attack
def data_for_nobody(on: Victim) -> Iterator[bytes]:
    """On a stream that was never opened."""
    return fast(lambda: on.frame(f.DATA, b"x", stream=0x7FFFFFFF))


@attack
def end_again_and_again(on: Victim) -> Iterator[bytes]:
    """The end of a stream that has ended."""
    return fast(lambda: on.frame(f.DATA, stream=on.stdout, flags=f.END))


@attack
def lines_without_end(on: Victim) -> Iterator[bytes]:
    """As fast as the host takes them."""
    return fast(lambda: on.frame(f.DATA, b"\n" * f.MAX_DATA, stream=on.stdout))


@attack
def replies_to_nobody(on: Victim) -> Iterator[bytes]:
    """Long ones."""
    reply = codec.encode(m.Reply(containers=tuple(m.Container(f"{n:064}") for n in range(150))))
    return fast(lambda: on.frame(f.REPLY, reply, stream=12345))


@attack
def tiny_credit(on: Victim) -> Iterator[bytes]:
    """One byte at a time."""
    return fast(lambda: on.frame(f.CREDIT, f.credit_payload(1), stream=on.stdout))


@attack
def credit_that_overflows(on: Victim) -> Iterator[bytes]:
    """More than any stream can have."""
    return fast(lambda: on.frame(f.CREDIT, f.credit_payload(2**30), stream=on.stdout))


@attack
def acknowledgements_again(on: Victim) -> Iterator[bytes]:
    """Of what was acknowledged long ago."""
    return fast(lambda: f.pack(f.ACK, seq=0))


@attack
def acknowledgement_from_the_future(on: Victim) -> Iterator[bytes]:
    """Of what the host has not sent."""
    yield f.pack(f.ACK, seq=2**62)


@attack
def frames_again(on: Victim) -> Iterator[bytes]:
    """Such as the host has."""
    return fast(lambda: f.pack(f.EVENT, b"", seq=1))


@attack
def lying_lengths(on: Victim) -> Iterator[bytes]:
    """Headers of frames that are too long."""
    return fast(lambda: b"\xff\xff\xff\x7f\x06" + bytes(15))


@attack
def resync_with_progress(on: Victim) -> Iterator[bytes]:
    """A frame, rubbish, the answer to the greeting that follows: each round makes the host repeat all it has sent."""
    while True:
        yield on.frame(f.CREDIT, f.credit_payload(5000), stream=on.stdout) + b"\xff" * 20
        time.sleep(0.002)
        yield on.hello()


@attack
def markers_without_hello(on: Victim) -> Iterator[bytes]:
    """Keys, so that the host looks behind each."""
    return fast(lambda: on.key)


@attack
def frame_without_end(on: Victim) -> Iterator[bytes]:
    """A header, and the rest never comes."""
    yield f.pack(f.DATA, bytes(9000), stream=on.stdout, seq=on.seq + 1)[:-1]
    while True:
        time.sleep(0.1)
        yield b""


@attack
def silence(on: Victim) -> Iterator[bytes]:
    """Neither reads nor writes."""
    while True:
        time.sleep(0.1)
        yield b""


@attack
def connection_after_connection(on: Victim) -> Iterator[bytes]:
    """Hangs up as soon as the host is there."""
    while True:
        on.guest._disconnect()
        yield on.hello()


class HostileGuest(FakeGuest):
    """See above. What it is sent after it has turned is not read."""

    _pieces: Iterator[bytes] | None = None

    def _ask(self, asked: Asked) -> None:
        op = asked.op
        if isinstance(op, m.Exec):
            argv = self._containers._document(op.container, op.process)["args"]
            if argv[0] == "attack":
                self._pieces = ATTACKS[argv[1]](Victim(self, op.container))
                self._pending = b""
                return
        super()._ask(asked)

    def _step(self) -> None:
        if self._pieces is None:
            return super()._step()
        if not self._pending:
            self._pending = next(self._pieces, b"")
        poll = select.poll()
        for fd in (self._wake, self._vmm_pidfd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        if self._connection is None:
            poll.register(self._listener.fileno(), select.POLLIN)
        elif self._pending:
            poll.register(self._connection.fileno(), select.POLLOUT)
        for fd, _ in poll.poll(20):
            self._on_ready(fd)
        return None

    def _on_ready(self, fd: int) -> None:
        if fd == self._wake:
            os.eventfd_read(fd)
        elif fd == self._vmm_pidfd:
            self._power_off()
        elif self._connection is None:
            self._accept()
        else:
            try:
                self._pending = self._pending[self._connection.send(self._pending) :]
            except BlockingIOError:
                pass
            except OSError:
                self._disconnect()
