# SPDX-License-Identifier: Apache-2.0
"""The history of a pod: facts with times, kept in its file and so known to the next daemon.

Added by `cri.live` and by the RPCs, shown by `cri.translate.history`. A pod has at most `MOST` facts of at most
`TEXT_CHARS` characters each. Pure but for the clock.
"""

import time
from typing import NamedTuple

MOST = 64
TEXT_CHARS = 600
FILES, NETWORK, VMM, KERNEL, AGENT, CONFIGURE, CLAIM = (
    "files",
    "network",
    "vmm",
    "kernel",
    "agent",
    "configure",
    "claim",
)
READY = "ready"
PULL, IMAGE, CREATED, STARTED, EXITED = "pull", "image", "created", "started", "exited"
FAILED, STOPPING, ENDED = "failed", "stopping", "ended"
HELD, GOES_ON, ADOPTED, LOST = "held", "goes on", "adopted", "lost"
SUSPENDED, RESUMED, FORKED, COPIED = "suspended", "resumed", "forked", "copied"
CHECKPOINTED = "checkpointed"
CGROUP = "cgroup"
FULL, NOT_FULL = "disk full", "disk has room"
BOOT = (FILES, NETWORK, VMM, KERNEL, AGENT, CONFIGURE, CLAIM, READY)
"""The phases of a pod's start. Each happens once, and is never dropped for a later fact."""


class Fact(NamedTuple):
    """`what` happened, and was over at `at_ns` (since 1970) after `took_ns`; 0 for what takes no time.

    `subject` is the container's name, empty for the pod itself. `reason` is the CRI's for an exit, and the RPC that
    failed; `code` the exit code. `times` is how often the same happened, the last time at `at_ns`.
    """

    what: str
    at_ns: int = 0
    took_ns: int = 0
    subject: str = ""
    reason: str = ""
    code: int = 0
    text: str = ""
    times: int = 1


_SUBJECT, _TIMES = (Fact._fields.index(name) for name in ("subject", "times"))


class Removed(NamedTuple):
    """A pod that is gone: what `why` was its state's, and its facts and the end of its console."""

    id: str
    namespace: str
    name: str
    uid: str
    at_ns: int
    why: str = ""
    facts: tuple[Fact, ...] = ()
    console: str = ""
    hypervisor: str = ""


def added(facts: tuple[Fact, ...], new: Fact) -> tuple[Fact, ...]:
    """Return the facts with `new`, whose time is now unless it has one. A fact that is only repeated is counted. When
    there are too many the oldest one that is no phase of the start is dropped.
    """
    new = _bounded(new)
    same = next((one for one in facts if one.what == new.what and _is_same(one, new)), None)
    if same is not None:
        kept = tuple(one for one in facts if one is not same)
        return (*kept, new._replace(times=same.times + 1))
    if len(facts) >= MOST:
        oldest = next((one for one in facts if one.what not in BOOT), facts[0])
        facts = tuple(one for one in facts if one is not oldest)
    return (*facts, new)


def printable(text: str) -> str:
    """The text without control characters: guests, images and clients wrote it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _short(text: str) -> str:
    if len(text) > TEXT_CHARS:
        text = f"{text[: TEXT_CHARS * 2 // 3]} ... {text[-TEXT_CHARS // 4 :]}"
    return printable(text)


def _bounded(new: Fact) -> Fact:
    at_ns = new.at_ns or time.time_ns()
    return new._replace(
        at_ns=at_ns,
        took_ns=max(new.took_ns, 0),
        subject=new.subject and _short(new.subject),
        text=new.text and _short(new.text),
        code=new.code & 0xFF,
    )


def _is_same(one: Fact, other: Fact) -> bool:
    """Whether facts of the same kind differ in their times alone."""
    return one[_SUBJECT:_TIMES] == other[_SUBJECT:_TIMES]
