# SPDX-License-Identifier: Apache-2.0
"""The history of a pod for verbose answers: its facts, and the relevant lines of its console. Called by `replies` and
by Status; read by `clearpod why` and `clearpod timeline`. Pure.
"""

import re
from datetime import UTC, datetime
from typing import Any

from cri.store.failures import Failure
from cri.store.history import EXITED, Fact, Removed, printable
from stage1.errors import both_ends

MOST_LINES = 12
LINE_CHARS = 300
_LATEST_NS = 253_402_300_799 * 10**9
_TELLING = re.compile(
    r"panic|oops|BUG|out of memory|oom|killed|error|fail|fault|denied|corrupt|can't|cannot|unable|no space|not found"
    r"|refused|timed? ?out|hung|blocked for|stall|segfault|clearpod",
    re.IGNORECASE,
)
_TIME = re.compile(r"^\[ *\d+\.\d+\] ?")
_EXPECTED = "TUNSETSTEERINGEBPF"
"""What a VMM writes that has loaded a guest: its filter refuses to remove a program that is not there."""


def facts(history: tuple[Fact, ...]) -> list[dict[str, Any]]:
    """Oldest first; what is empty is left out."""
    return [_fact(one) for one in sorted(history, key=lambda one: one.at_ns)]


def _fact(one: Fact) -> dict[str, Any]:
    result: dict[str, Any] = {"what": one.what, "at": moment(one.at_ns)}
    if one.took_ns:
        result["tookMs"] = round(one.took_ns / 1e6, 3)
    result |= {key: value for key in ("subject", "reason", "text") if (value := getattr(one, key))}
    if one.what == EXITED:
        result["code"] = one.code
    if one.times > 1:
        result["times"] = one.times
    return result


def moment(at_ns: int) -> str:
    """The time in UTC, with microseconds."""
    return datetime.fromtimestamp(min(max(at_ns, 0), _LATEST_NS) / 1e9, UTC).isoformat(timespec="microseconds")


def failure(one: Failure) -> dict[str, Any]:
    """A sandbox that could not be started."""
    return {
        "namespace": one.namespace,
        "name": one.name,
        "uid": one.uid,
        "attempt": one.attempt,
        "at": moment(one.at_ns),
        "first": moment(one.first_ns),
        "times": one.times,
        "code": one.code,
        "kind": one.kind,
        "error": one.error,
        "history": facts(one.facts),
        "console": telling(one.console),
    }


def removed(one: Removed) -> dict[str, Any]:
    """A pod that was removed."""
    return {
        "id": one.id,
        "namespace": one.namespace,
        "name": one.name,
        "uid": one.uid,
        "at": moment(one.at_ns),
        "why": one.why,
        "history": facts(one.facts),
        "console": telling(one.console),
        "hypervisor": one.hypervisor,
    }


def telling(console: str) -> list[str]:
    """The last lines of a console without those of a kernel that only boots, and without what is `_EXPECTED`. They are
    a guest's: none has control characters or is long.
    """
    lines = [both_ends(printable(line).strip(), LINE_CHARS) for line in console.splitlines()]
    lines = [line for line in lines if line and _EXPECTED not in line]
    chosen = [line for line in lines if _TELLING.search(line) or not _TIME.match(line)]
    return chosen[-MOST_LINES:]
