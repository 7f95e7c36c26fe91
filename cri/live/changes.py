# SPDX-License-Identifier: Apache-2.0
"""How a pod's changes are recorded: in its state file, the log, and the facts of its history. Owned and called by the
pod, whatever caused the change.
"""

import asyncio
import logging
from collections.abc import Callable

from cri import events
from cri.live.container import LiveContainer
from cri.store import history
from cri.store.history import EXITED, STARTED, Fact
from stage1.errors import PodError
from stage1.guest.messages import PodStats

log = logging.getLogger("clearpod.pod")


# -- The state file ----------------------------------------------------------------------------------------------------
# For state changes that have happened already: they are not rolled back because they can't be saved. What is only
# about to begin uses `LivePod.save`, and fails with it.


RETRY_S = 1.0


class StateSaver:
    """`write` writes the file of the pod `title`, and raises PodError when it can't; that is retried each `retry_s`."""

    def __init__(self, write: Callable[[], None], title: str, *, retry_s: float = RETRY_S) -> None:
        self._write, self._title, self._retry_s = write, title, retry_s
        self._timer: asyncio.TimerHandle | None = None
        self._is_logged = self._is_closed = False

    def save_soon(self) -> None:
        """Save now, or as soon as that is possible. Never raises PodError."""
        try:
            self._write()
        except FileNotFoundError:
            self.close()  # the pod's directory was removed
        except PodError as error:
            if not self._is_logged:
                log.warning("pod.unsaved", extra={"title": self._title, "error": str(error)})
            self._is_logged = True
            self._retry_later()
        else:
            self._is_logged = False

    def close(self) -> None:
        """Stop trying. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retry_later(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(self._retry_s, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self.save_soon()


# -- States of containers ----------------------------------------------------------------------------------------------


EVENTS = {
    events.CREATED: "container.created",
    events.STARTED: "container.started",
    events.STOPPED: "container.exited",
    events.DELETED: "container.removed",
}
TROUBLE = ("OOMKilled", "StartError", "Unknown")
"""Reasons of an end that an administrator should look at; so is a sentence, which is about the VM's end, unless the
pod was being stopped.
"""


def container_fact(container: LiveContainer, kind: int) -> Fact | None:
    """The fact of the history that the event `kind` is; None of one that has none. Pure."""
    status, name = container.status, container.record.container.name
    if kind == events.STARTED:
        took_ns = status.started_ns - container.start_asked_ns if container.start_asked_ns else 0
        return Fact(STARTED, status.started_ns, took_ns, subject=name)
    if kind == events.STOPPED:
        return Fact(EXITED, status.finished_ns, 0, name, status.reason, status.exit_code, status.message)
    return None


def log_change(container: LiveContainer, kind: int, *, fields: dict[str, str], is_ending: bool) -> None:
    """Log the event `kind` with the `fields` of the container; `is_ending`: its pod is being stopped."""
    more: dict[str, object] = {}
    level = logging.INFO
    if kind == events.STOPPED:
        status = container.status
        more = {"code": status.exit_code, "reason": status.reason}
        if status.message:
            more["error"] = status.message
        if status.reason in TROUBLE or (status.message and not is_ending):
            level = logging.WARNING
    log.log(level, EVENTS[kind], extra={**fields, **more})


# -- The pod's disk ----------------------------------------------------------------------------------------------------
# That it is full is recorded, since programs that can't write seldom report it. The guest measures it; the host's
# disk is the subject of `cri.monitors.disk_guard`.


FULL_PERCENT, CLEARED_PERCENT = 99, 95
"""Apart, so that a disk at its edge is not told of again and again."""
MIB = 1 << 20


def disk_fact(known: tuple[Fact, ...], numbers: PodStats) -> Fact | None:
    """The fact that these statistics reveal: that the disk is full now, or has space again; None if it is known
    already.
    """
    last = next((one for one in reversed(known) if one.what in (history.FULL, history.NOT_FULL)), None)
    was_full = last is not None and last.what == history.FULL
    lack = _lack_of_space(numbers, percent=CLEARED_PERCENT if was_full else FULL_PERCENT)
    if bool(lack) == was_full:
        return None
    whose = f"the disk of its containers' layers, with {numbers.disk_bytes // MIB} MiB for files,"
    return (
        Fact(history.FULL, text=f"{whose} {lack}") if lack else Fact(history.NOT_FULL, text=f"{whose} has space again")
    )


def _lack_of_space(numbers: PodStats, *, percent: int) -> str:
    if numbers.disk_bytes and numbers.disk_free * 100 <= numbers.disk_bytes * (100 - percent):
        return "is full"
    if numbers.disk_inodes and numbers.disk_inodes_free * 100 <= numbers.disk_inodes * (100 - percent):
        return "has no inodes left, so that no file can be created"
    return ""
