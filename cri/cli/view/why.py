# SPDX-License-Identifier: Apache-2.0
"""`clearpod why`: what happened to a pod, also to one that never started: the most important sentence, what to do, and
the facts in order.

`find` asks the daemon and converts its answer once, to a `Record`; all that follows is pure, and uses only what the
daemon has recorded. `timeline` draws the same record.
"""

import argparse
import json
import math
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.lookup import SUSPENDED
from cri.cli.parser import Command, Parser
from cri.cli.shown import moment
from cri.store import history as h
from stage1.errors import NotFound


class Event(NamedTuple):
    """One recorded fact; see docs/dev/cri.md. `at_s` is since 1970."""

    what: str
    at_s: float
    took_ms: float = 0.0
    subject: str = ""
    reason: str = ""
    code: int = 0
    text: str = ""
    times: int = 1


class Record(NamedTuple):
    """A pod. `state` is ready, suspended, not ready or failed. A failed one does not exist: `error` is the reason, and
    `times` the number of attempts.

    `failed` has earlier failed attempts to start the pod, with the reason. `older` are ids of other pods of the
    same name.
    """

    title: str
    id: str
    state: str
    events: tuple[Event, ...]
    console: tuple[str, ...] = ()
    why: str = ""
    error: str = ""
    kind: str = ""
    times: int = 0
    failed: str = ""
    hypervisor: str = ""
    older: tuple[str, ...] = ()


def find(daemon: Daemon, word: str) -> Record:
    """Return the record of the pod that `word` names, else of the failed sandbox. Raises NotFound, BadRequest."""
    failures, listed, gone = lookup.failed(daemon), lookup.pods(daemon), lookup.removed(daemon)
    pod = lookup.find(listed, word)
    if pod is not None:
        reply = daemon("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)
        record = _of_pod(reply, lookup.find_failed(failures, pod.metadata.uid or lookup.title(pod)))
        return record._replace(older=_older(record, listed, gone=gone))
    failure, last = lookup.find_failed(failures, word), lookup.find_removed(gone, word)
    if last is not None and (failure is None or moment(failure["at"]) < moment(last["at"])):
        record = _of_removed(last)
        return record._replace(older=_older(record, listed, gone=gone))
    if failure is None:
        raise NotFound(
            f"there is no pod {word!r}, nor did one fail to start or was removed lately; `clearpod ps -a` lists those"
            " that exist"
        )
    return _of_failure(failure)


def _older(record: Record, listed: list[Any], *, gone: list[dict[str, Any]]) -> tuple[str, ...]:
    """The other pods of this name, those that exist first, then the newest."""
    ids = [pod.id for pod in listed if lookup.title(pod) == record.title]
    ids += [one["id"] for one in reversed(gone) if f"{one['namespace']}/{one['name']}" == record.title]
    return tuple(dict.fromkeys(one for one in ids if one != record.id))


def _of_removed(gone: dict[str, Any]) -> Record:
    return Record(
        title=f"{gone['namespace']}/{gone['name']}",
        id=gone["id"],
        state="removed",
        events=_events(gone["history"]),
        console=tuple(gone["console"]),
        why="" if any(one["what"] == h.STOPPING for one in gone["history"]) else gone["why"],
        hypervisor=gone["hypervisor"],
    )


def _of_pod(reply: Any, failure: dict[str, Any] | None) -> Record:
    info = lookup.info(reply)
    earlier = (
        f"{failure['times']} earlier tries to start it failed, the last one with: {failure['error']}" if failure else ""
    )
    return Record(
        title=lookup.title(reply.status),
        id=reply.status.id,
        state=lookup.state(reply),
        events=_events(info.get("history", [])),
        console=tuple(info.get("console", [])),
        why=info.get("why", ""),
        failed=earlier,
        hypervisor=info.get("vm", {}).get("hypervisor", ""),
    )


def _of_failure(failure: dict[str, Any]) -> Record:
    return Record(
        title=f"{failure['namespace']}/{failure['name']}",
        id="",
        state="failed",
        events=(*_events(failure["history"]), _failed_start(failure)),
        console=tuple(failure["console"]),
        error=failure["error"],
        kind=failure["kind"],
        times=failure["times"],
    )


def _failed_start(failure: dict[str, Any]) -> Event:
    at_s = moment(failure["at"]).timestamp()
    return Event("failed", at_s, reason="RunPodSandbox", text=failure["error"], times=failure["times"])


def _events(history: list[dict[str, Any]]) -> tuple[Event, ...]:
    return tuple(
        Event(
            one["what"],
            moment(one["at"]).timestamp(),
            one.get("tookMs", 0.0),
            one.get("subject", ""),
            one.get("reason", ""),
            one.get("code", 0),
            one.get("text", ""),
            one.get("times", 1),
        )
        for one in history
    )


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


EXAMPLES = (
    ("clearpod why default/web", "what happened to the pod web"),
    ("clearpod why 1f3c", "the same for the pod whose id begins so"),
)
WIDE, LEAST = 120, 20
MOST_OLDER = 5


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod why`."""
    parser.take_pod()
    parser.add_argument("--json", action="store_true", help="one object, for programs")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print why the pod is in its state. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        record = find(daemon, args.pod)
    if args.json:
        shown.write(json.dumps(as_json(record), indent=2))
    else:
        shown.write(text(record, now_s=time.time(), columns=shown.width()))
    return 0


def as_json(record: Record) -> dict[str, object]:
    """The record with its verdict, as an object."""
    chief = verdict(record)
    events = [one._asdict() for one in record.events]
    return {"verdict": chief.sentence, "advice": chief.advice, **record._asdict(), "events": events}


def text(record: Record, *, now_s: float, columns: int = 0) -> str:
    """The output, wrapped to the terminal's width."""
    chief = verdict(record)
    name = f"pod {record.title}" + (f" ({record.id[: shown.ID_CHARS]})" if record.id else "")
    state = {"failed": "did not start"}.get(record.state, f"is {record.state}")
    parts = [f"{name} {state}.", f"In short: {chief.sentence}."]
    if chief.advice:
        parts.append(f"What to do: {chief.advice}.")
    if record.older:
        ids = ", ".join(one[: shown.ID_CHARS] for one in record.older[:MOST_OLDER])
        parts.append(f"Other pods of this name: {ids}; `clearpod why ID` explains each.")
    if record.failed:
        parts.append(f"Before: {record.failed}.")
    blocks = [shown.printable(part) for part in parts]
    if happened := lines(record, now_s):
        blocks += ["", "What happened:", *(f"  {shown.printable(line)}" for line in happened)]
    if record.console:
        blocks += ["", "The end of the guest's console:", *(f"  {shown.printable(line)}" for line in record.console)]
    return "\n".join(line for block in blocks for line in _wrapped(block, columns))


def _wrapped(line: str, columns: int) -> list[str]:
    wide = max(min(columns or WIDE, WIDE), LEAST)
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, wide, subsequent_indent=f"{indent}    ", replace_whitespace=False) or [""]


COMMANDS = {"why": Command(EXAMPLES, add_arguments, main)}
