# SPDX-License-Identifier: Apache-2.0
"""What the daemon has recorded about one pod, or about a sandbox that could not be started. Used by `why` and
`timeline`. The daemon's answer is converted here once; the code that displays it makes no further calls.
"""

from typing import Any, NamedTuple

from cri.cli import lookup
from cri.cli.daemon import Daemon
from cri.cli.shown import moment
from cri.store import history
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
        why="" if any(one["what"] == history.STOPPING for one in gone["history"]) else gone["why"],
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
        events=(*_events(failure["history"]), _failed(failure)),
        console=tuple(failure["console"]),
        error=failure["error"],
        kind=failure["kind"],
        times=failure["times"],
    )


def _failed(failure: dict[str, Any]) -> Event:
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
