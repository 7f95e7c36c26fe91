# SPDX-License-Identifier: Apache-2.0
"""Attacks of a compromised agent that is to copy changes of the kubelet's files, or to write back a termination log,
one class for each idea. They are well-behaved guests until then, and chosen as those of `link_attacks`.
"""

import os
import time

from stage1.guest import messages as m
from tests.hostile.phantom import Phantom


class FilesSilent(Phantom):
    """Answers no Update."""

    def answer(self, number: int, op: m.Op) -> None:
        if not isinstance(op, m.Update):
            super().answer(number, op)


class FilesBusy(Phantom):
    """Always answers that it is busy."""

    code = m.WRONG_STATE

    def reply_to(self, op: m.Op) -> m.Reply:
        return m.Reply(self.code, "\x1b[2Jlater\n" * 3000) if isinstance(op, m.Update) else super().reply_to(op)


class FilesRefuse(FilesBusy):
    """Refuses, with a very long error."""

    code = m.FAILED


class FilesDie(Phantom):
    """Its VM ends."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, m.Update):
            os._exit(1)
        super().answer(number, op)


class FilesHangUp(Phantom):
    """Cuts the connection."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, m.Update):
            return self.disconnect()
        return super().answer(number, op)

    def read(self) -> None:
        if self.connection is not None:
            super().read()


class FilesEnds(FilesSilent):
    """Says that its container has ended, and again, whenever it is asked."""

    def answer(self, number: int, op: m.Op) -> None:
        if isinstance(op, m.Update):
            for code in (0, 255, 7):
                self.link.event(m.Exited(op.container, 0, code, True, time.time_ns() + (code << 40)))
        super().answer(number, op)


FILES: dict[str, type[Phantom]] = {
    "files-silent": FilesSilent,
    "files-busy": FilesBusy,
    "files-refuse": FilesRefuse,
    "files-die": FilesDie,
    "files-hang-up": FilesHangUp,
    "files-ends": FilesEnds,
}
