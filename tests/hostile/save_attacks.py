# SPDX-License-Identifier: Apache-2.0
"""Attacks of a compromised agent or VMM while its guest is saved, copied or loaded, one class for each idea. Those
whose names begin with `copy-` are for the hostname of the copy.

They begin as well-behaved guests (`phantom`), and are chosen by their pod's hostname, as those of `link_attacks`.
"""

import os
import time

from stage1.guest import codec
from stage1.guest import frame as f
from stage1.guest import messages as m
from tests.fakes.guest_link import GuestLink
from tests.hostile.link_attacks import MOST, Flood
from tests.hostile.phantom import Phantom

SAVING = (m.Shares, m.Freeze)
"""What an agent is asked for a save."""

# -- the agent of an original


class Silent(Phantom):
    """Answers neither Shares nor Freeze: it keeps its shares and runs on."""

    def answer(self, number: int, op: m.Op) -> None:
        if not isinstance(op, SAVING):
            super().answer(number, op)


class Frozen(Phantom):
    """Lets its shares go, and never answers that it stands still, or goes on."""

    def answer(self, number: int, op: m.Op) -> None:
        if not isinstance(op, m.Freeze):
            super().answer(number, op)


class Twice(Phantom):
    """Answers each of both four times, two of them to other questions, and differently."""

    def answer(self, number: int, op: m.Op) -> None:
        super().answer(number, op)
        if isinstance(op, SAVING):
            self.link.reply(number, m.Reply(m.FAILED, "no, it could not"))
            self.link.reply(number + 1, m.Reply())
            self.link.reply(0xFFFFFFF0, m.Reply(pid=MOST & 0x3FFFFF))


class Busy(Phantom):
    """Always answers that its shares are in use."""

    def reply_to(self, op: m.Op) -> m.Reply:
        if isinstance(op, m.Shares):
            return m.Reply(m.WRONG_STATE, "\x1b[2Jin use " * 3000)
        return super().reply_to(op)


class HangsUp(Phantom):
    """Cuts the connection at each of both, and has forgotten it then."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, SAVING):
            return self.disconnect()
        return super().answer(number, op)

    def read(self) -> None:
        if self.connection is not None:
            super().read()


class Dies(Phantom):
    """Its VM ends at the first of both."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, SAVING):
            os._exit(1)
        super().answer(number, op)


class OnceTuned(Flood):
    """Floods from the first of both on, which it does not answer."""

    def __init__(self, listener: object) -> None:
        super().__init__(listener)
        self.tuned = False

    def answer(self, number: int, op: m.Op) -> None:
        self.tuned |= isinstance(op, SAVING)
        if not self.tuned:
            super().answer(number, op)

    def step(self) -> None:
        ready, self.ready = self.ready, self.ready and self.tuned
        super().step()
        self.ready = self.ready or ready


class TunedEvents(OnceTuned):
    """The ends of its containers, again and again."""

    def burst(self) -> bytes:
        event = codec.encode_event(m.Exited(self.victim.id, 0, 1, False, time.time_ns()))
        return self.frames(f.EVENT, event, count=500)


class TunedHellos(OnceTuned):
    """The HELLO of its boot, replayed."""

    every_s = 0.002

    def burst(self) -> bytes:
        hello = self.link._boot._replace(epoch=self.link.epoch, received=0, first=1)
        return self.link._key + f.pack(f.HELLO, codec.encode(hello))


# -- the VMM of an original


class Deaf(Phantom):
    """Its monitor takes the command to stop the guest, and never answers."""

    def command(self, name: str, do: object) -> object:
        return None if name == "stop" and self.ready else super().command(name, do)


class Endless(Phantom):
    """Its saving never ends."""

    def command(self, name: str, do: object) -> object:
        return {"status": "active"} if name == "query-migrate" and self.ready else super().command(name, do)


class Nothing(Phantom):
    """It reports that it has saved, and has written nothing."""

    def command(self, name: str, do: object) -> object:
        if name == "migrate":
            return {}
        return {"status": "completed"} if name == "query-migrate" else super().command(name, do)


class Talks(Phantom):
    """Its monitor sends events without end in place of an answer."""

    def command(self, name: str, do: object) -> object:
        return b'{"event": "X", "data": {}}\n' * (1 << 18) if name == "migrate" else super().command(name, do)


class Odd(Phantom):
    """Its monitor answers with something else."""

    def command(self, name: str, do: object) -> object:
        odd = {"add-fd": {"fdset-id": -1}, "query-fdsets": [{"fds": [{"opaque": "0 512"}], "fdset-id": 1}] * 20000}
        return odd[name] if self.ready and name in odd else super().command(name, do)


class Vanishes(Phantom):
    """It ends in the middle of a save."""

    def command(self, name: str, do: object) -> object:
        if name == "migrate":
            os._exit(1)
        return super().command(name, do)


# -- the agent and the VMM of a copy


class Copy(Phantom):
    """What its guest was saved with is an honest guest's."""


class OldKey(Copy):
    """Continues with the original's key, independent of its host."""

    def read(self) -> None:
        self.link.__class__ = _Stubborn
        super().read()


class _Stubborn(GuestLink):
    def _on_hello(self, hello: m.Hello, items: object) -> None:
        super()._on_hello(hello._replace(key=b""), items)  # type: ignore[arg-type]


class CopyMute(Copy):
    """Says hello and nothing more."""

    def answer(self, number: int, op: m.Op) -> None:
        """No."""


class CopyInventor(Copy):
    """Lists 255 unknown containers besides the original's, and takes a second to remove each."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, m.Delete):
            time.sleep(1)
        super().answer(number, op)

    def reply_to(self, op: m.Op) -> m.Reply:
        if isinstance(op, m.List):
            invented = tuple(m.Container(f"{number:064x}", state=m.RUNNING) for number in range(255))
            return m.Reply(containers=(*self.containers.values(), *invented))
        return super().reply_to(op)


class CopyForgets(Copy):
    """Has none of the original's containers."""

    def reply_to(self, op: m.Op) -> m.Reply:
        return m.Reply() if isinstance(op, m.List) else super().reply_to(op)


class CopyDies(Copy):
    """Its VM ends when it gets its identity."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, m.Configure):
            os._exit(1)
        super().answer(number, op)


class CopyDoesNotLoad(Copy):
    """Its VMM never finishes loading."""

    def command(self, name: str, do: object) -> object:
        return {"status": "active"} if name == "query-migrate" else super().command(name, do)


# -- the agent of a pod that is resumed: a good one until then


class Resumed(Phantom):
    """A good guest, until it was loaded."""


class ResumedDeaf(Resumed):
    """Takes the connection and reads nothing, also no hello."""

    def wants_input(self) -> bool:
        return not self.was_loaded


class ResumedMute(Resumed):
    """Says hello and nothing more."""

    def answer(self, number: int, op: m.Op) -> None:
        if not self.was_loaded:
            super().answer(number, op)


class ResumedRefuses(Resumed):
    """Refuses to mount again, with a very long error."""

    def reply_to(self, op: m.Op) -> m.Reply:
        if self.was_loaded and isinstance(op, SAVING):
            return m.Reply(m.FAILED, "\x1b[2Jno\n" * 3000)
        return super().reply_to(op)


class ResumedDies(Resumed):
    """Its VM ends at the first request."""

    def answer(self, number: int, op: m.Op) -> None:
        if self.was_loaded:
            os._exit(1)
        super().answer(number, op)


class ResumedBoots(Resumed):
    """Reports that it has booted anew."""

    def read(self) -> None:
        if self.was_loaded:
            self.link._boot = self.link._boot._replace(boot_id=4711)
        super().read()


class ResumedInventor(Resumed):
    """Lists 255 unknown containers, and those that existed as ended in the future."""

    def reply_to(self, op: m.Op) -> m.Reply:
        if self.was_loaded and isinstance(op, m.List):
            invented = tuple(m.Container(f"{number:064x}", state=m.RUNNING) for number in range(255))
            ended = (
                one._replace(state=m.EXITED, exit_code=-1 & 0xFF, finished_ns=1 << 62)
                for one in self.containers.values()
            )
            return m.Reply(containers=(*ended, *invented))
        return super().reply_to(op)


class ResumedEvents(Flood):
    """The ends of its containers, again and again, from then on."""

    def step(self) -> None:
        ready, self.ready = self.ready, self.ready and self.was_loaded
        super().step()
        self.ready = self.ready or ready

    def burst(self) -> bytes:
        event = codec.encode_event(m.Exited(next(iter(self.containers)), 0, 1, False, time.time_ns()))
        return self.frames(f.EVENT, event, count=500)


class ResumedOldEpoch(Resumed):
    """Continues with the former epoch, for which there is no host."""

    def answer(self, number: int, op: m.Op) -> None:
        if self.was_loaded:
            self.link.epoch = 77
        super().answer(number, op)


ORIGINALS: dict[str, type[Phantom]] = {
    "silent": Silent,
    "frozen": Frozen,
    "twice": Twice,
    "busy": Busy,
    "hangs-up": HangsUp,
    "dies": Dies,
    "tuned-events": TunedEvents,
    "tuned-hellos": TunedHellos,
    "deaf": Deaf,
    "endless": Endless,
    "nothing": Nothing,
    "talks": Talks,
    "odd": Odd,
    "vanishes": Vanishes,
}
COPIES: dict[str, type[Phantom]] = {
    "copy-old-key": OldKey,
    "copy-mute": CopyMute,
    "copy-inventor": CopyInventor,
    "copy-forgets": CopyForgets,
    "copy-dies": CopyDies,
    "copy-does-not-load": CopyDoesNotLoad,
}
RESUMED: dict[str, type[Phantom]] = {
    "resumed-deaf": ResumedDeaf,
    "resumed-mute": ResumedMute,
    "resumed-refuses": ResumedRefuses,
    "resumed-dies": ResumedDies,
    "resumed-boots": ResumedBoots,
    "resumed-inventor": ResumedInventor,
    "resumed-events": ResumedEvents,
    "resumed-old-epoch": ResumedOldEpoch,
}
SAVE_ATTACKS = {f"save-{name}": kind for name, kind in (ORIGINALS | RESUMED).items()} | COPIES
