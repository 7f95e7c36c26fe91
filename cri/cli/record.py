# SPDX-License-Identifier: Apache-2.0
"""What the daemon has recorded about one pod, or about a sandbox that could not be started. Used by `why` and
`timeline`. The daemon's answer is converted here once; the code that displays it makes no further calls.
"""

from typing import Any, NamedTuple

from cri.cli import lookup
from cri.cli.daemon import Daemon
from cri.cli.shown import moment
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

    `failed` has earlier failed attempts to start the pod, with the reason.
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


def find(daemon: Daemon, word: str) -> Record:
    """Return the record of the pod that `word` names, else of the failed sandbox. Raises NotFound, BadRequest."""
    failures = lookup.failed(daemon)
    pod = lookup.find(lookup.pods(daemon), word)
    if pod is not None:
        reply = daemon("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)
        return _of_pod(reply, lookup.find_failed(failures, pod.metadata.uid or lookup.title(pod)))
    failure = lookup.find_failed(failures, word)
    if failure is None:
        raise NotFound(
            f"there is no pod {word!r}, nor did one fail to start recently; `clearpod ps -a` lists those that exist"
        )
    return _of_failure(failure)


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
