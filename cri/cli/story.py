# SPDX-License-Identifier: Apache-2.0
"""What happened to a pod, as text: the most important sentence, what to do, and the facts in order. Called by `why`.
Pure: it uses only what the daemon has recorded.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from cri.cli import shown
from cri.cli.lookup import SUSPENDED
from cri.cli.record import Event, Record
from cri.store import history as h

PHASES = {
    h.FILES: "files and disk",
    h.NETWORK: "network",
    h.VMM: "hypervisor",
    h.KERNEL: "kernel",
    h.AGENT: "agent",
    h.CONFIGURE: "settings",
    h.CLAIM: "claim of a prewarmed VM",
}
DISK_ADVICE = (
    "make its containers write less, or to a volume, or give the pod a larger disk (vm.scratch_mib, or the annotation "
    "clearpod.io/scratch-mib); `clearpod stats` shows how much each container has written"
)
LOOKED_AT_S = 30.0
"""How long after an exit the guest reports how full its disk is; an emulated guest is slow."""
SIGNALS = {134: "SIGABRT", 137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM"}


class Verdict(NamedTuple):
    """The sentence, and what to do about it; the latter may be empty."""

    sentence: str
    advice: str = ""


ADVICE = {
    "NetworkFailed": "check the named CNI plugin, its configuration (network.conf_dir) and its log; "
    "`clearpod check` lists the configured networks",
    "VmFailed": "`clearpod check` tests whether this machine can run pods; the console's lines below are the guest's",
    "NoSpace": "free what is exhausted, or raise the limit that is named",
    "TimedOut": "the host may be overloaded; vm.boot_timeout_s is how long a guest may take",
    "BadRequest": "the pod asks for something invalid or that the policy forbids; change its manifest",
    "Unsupported": "the pod asks for something that clearpod does not do; change its manifest",
    "NotFound": "what the error names is missing; `clearpod check` lists missing parts of clearpod",
    "DiskFailed": "repair the disk or file system that is named",
}


def verdict(record: Record) -> Verdict:
    """Return the most important fact about the pod, with advice."""
    if record.state == "failed":
        tries = f" {record.times} times" if record.times > 1 else ""
        return Verdict(f"it could not be started{tries}: {record.error}", ADVICE.get(record.kind, ""))
    for rule in (_of_end, _of_hold, _of_exits, _of_disk, _of_failures):
        if verdict := rule(record):
            return verdict
    if record.state == SUSPENDED:
        return Verdict("its virtual machine was saved and ended, as was asked for", "`clearpod resume` lets it go on")
    return Verdict("nothing went wrong" if record.state == "ready" else record.why or "it was stopped when asked")


def _of_end(record: Record) -> Verdict | None:
    """The VM's end, unless it was asked for; it explains the exits of all containers."""
    if record.state in ("ready", SUSPENDED) or any(one.what == h.STOPPING for one in record.events):
        return None
    ended, lost = _last(record, h.ENDED), _last(record, h.LOST)
    advice = "the console's lines below may have the reason; its containers can't be started again, make a new sandbox"
    texts = [one.text for one in (ended, lost) if one and one.text]
    return Verdict(texts[0] if texts else record.why or "its virtual machine has ended", advice)


def _of_hold(record: Record) -> Verdict | None:
    held, released = _last(record, h.HELD), _last(record, h.GOES_ON)
    if held is None or (released and released.at_s >= held.at_s):
        return None
    return Verdict(held.text, "free room on that disk, or remove the pod")


def _of_exits(record: Record) -> Verdict | None:
    """The last exit that was no success, out of memory first."""
    ended = (one for one in record.events if one.what == h.EXITED and one.code)
    exits = [one for one in ended if not one.subject.startswith("debug-")]  # those that `clearpod debug` has removed
    worst = next((one for one in reversed(exits) if one.reason == "OOMKilled"), None) or (exits[-1] if exits else None)
    if worst is None:
        return None
    sentence = f"the container {worst.subject} {_exit(worst)}"
    full = _full(record, worst.at_s) if worst.reason in ("Error", "") else None
    return Verdict(f"{sentence}; {full.text}", DISK_ADVICE) if full else Verdict(sentence, _exit_advice(worst))


def _of_disk(record: Record) -> Verdict | None:
    full = _full(record, math.inf)
    return Verdict(full.text, DISK_ADVICE) if full else None


def _full(record: Record, at_s: float) -> Event | None:
    """The fact that the pod's own disk was full at that time: it is looked at a moment after an exit."""
    full, cleared = _last(record, h.FULL, until_s=at_s + LOOKED_AT_S), _last(record, h.NOT_FULL, until_s=at_s)
    return full if full and (cleared is None or cleared.at_s < full.at_s) else None


def _of_failures(record: Record) -> Verdict | None:
    failure = _last(record, h.FAILED)
    return Verdict(_failed(failure)) if failure else None


def _last(record: Record, what: str, *, until_s: float = math.inf) -> Event | None:
    return next((one for one in reversed(record.events) if one.what == what and one.at_s <= until_s), None)


def _exit(one: Event) -> str:
    repeated = f", {one.times} times" if one.times > 1 else ""
    if one.reason == "OOMKilled":
        return f"was killed since its memory was used up (OOMKilled, exit code {one.code}){repeated}"
    if one.reason == "StartError":
        return f"could not be started{repeated}: {one.text}"
    signal = f", {SIGNALS[one.code]}" if one.code in SIGNALS else ""
    text = f": {one.text}" if one.text else ""
    return f"ended with exit code {one.code} ({one.reason or 'Error'}{signal}){repeated}{text}"


def _exit_advice(one: Event) -> str:
    if one.reason == "OOMKilled":
        return "raise the container's memory limit, or make its program use less"
    if one.reason == "StartError":
        return "look at the container's command and arguments, and whether its image has that program"
    return "`clearpod logs` has what it wrote"


def _failed(one: Event) -> str:
    subject = f" of {one.subject}" if one.subject else ""
    return f"{one.reason}{subject} failed{_times(one)}: {one.text}"


def _times(one: Event) -> str:
    return f" {one.times} times, the last time now" if one.times > 1 else ""


def _ended(one: Event) -> str:
    return f"its virtual machine ended: {one.text}" if one.text else "its virtual machine ended"


LINES: dict[str, Callable[[Event], str]] = {
    h.READY: lambda one: f"ready, {shown.took(one.took_ms)} after it was asked for",
    h.PULL: lambda one: f"image {one.text} was pulled in {shown.took(one.took_ms)}",
    h.IMAGE: lambda one: f"image of {one.subject} was brought into the guest in {shown.took(one.took_ms)} ({one.text})",
    h.CREATED: lambda one: f"container {one.subject} was created in {shown.took(one.took_ms)}",
    h.STARTED: lambda one: (
        f"container {one.subject} was started" + (f" in {shown.took(one.took_ms)}" if one.took_ms else "")
    ),
    h.EXITED: lambda one: f"container {one.subject} {_exit(one)}",
    h.FAILED: _failed,
    h.HELD: lambda one: one.text,
    h.FULL: lambda one: one.text,
    h.NOT_FULL: lambda one: one.text,
    h.GOES_ON: lambda _: "it goes on, since there is room on the disk again",
    h.SUSPENDED: lambda _: "it was suspended: its virtual machine was saved and ended",
    h.RESUMED: lambda _: "it was resumed",
    h.FORKED: lambda _: "it was copied, and stood still for that",
    h.COPIED: lambda one: f"it began as a copy of {one.text}",
    h.CHECKPOINTED: lambda one: f"it was written to {one.text}, for which it stood still {shown.took(one.took_ms)}",
    h.CGROUP: lambda one: one.text,
    h.ADOPTED: lambda _: "the daemon was restarted and took the pod over",
    h.LOST: lambda one: one.text,
    h.STOPPING: lambda _: "its end was asked for",
    h.ENDED: _ended,
}


def lines(record: Record, now_s: float) -> list[str]:
    """The facts in their order, one line each; the phases of the start are one line."""
    now = datetime.fromtimestamp(now_s, UTC)
    result = []
    phases = [one for one in record.events if one.what in PHASES]
    if phases:
        took = ", ".join(f"{PHASES[one.what]} {shown.took(one.took_ms)}" for one in phases)
        result.append((phases[-1].at_s, f"start: {took}"))
    start_errors = {one.text for one in record.events if one.reason == "StartError"}
    for one in record.events:
        if one.what in PHASES or (one.reason == "StartContainer" and one.text in start_errors):
            continue
        line = LINES[one.what](one) if one.what in LINES else f"{one.what} {one.text}"
        repeated = f" ({one.times} times)" if one.times > 1 and one.what not in (h.EXITED, h.FAILED) else ""
        result.append((one.at_s, line + repeated))
    result.sort(key=lambda pair: pair[0])
    return [f"{shown.clock(datetime.fromtimestamp(at_s, UTC), now)}  {line}" for at_s, line in result]
