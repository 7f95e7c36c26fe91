# SPDX-License-Identifier: Apache-2.0
"""One container of a live pod: its state, its log, and who waits for its end.

Owned by the pod, which talks to the agent. State changes follow stage1.pod.states; there is no I/O here but the log.
"""

import asyncio
import time
from collections.abc import Callable

from cri import events
from cri.logs.feed import Consumed, LogFeed, LogStream
from cri.logs.place import LogPlace
from cri.logs.record import CommitRecord
from cri.logs.writer import LogWriter
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, ContainerState, Parsed, StoredContainer
from stage1.guest import messages
from stage1.guest.messages import Exited
from stage1.pod import states

KILLED = 137
"""Exit code of what died with its VM: as by SIGKILL."""


class LiveContainer:
    """`ended` is set once the container is EXITED. `lock` orders what changes it; `starting` is its start, `removers`
    the number of calls that remove it (see `order`). With `is_out_of_guest` the guest has forgotten it, after its end.

    `tell` is called at each change of its state (`cri.events`), `before_end` with what its end is, which it calls. Its
    log must be opened (in a thread) before its streams are listened to; the log's place is relative to `log_directory`,
    and what of it is committed is recorded in the pod's `directory`.
    """

    def __init__(
        self, record: ContainerRecord, directory: str, *, log_directory: str, status: ContainerState | None = None
    ) -> None:
        self.record = record
        self.status = status or ContainerState()
        self.lock = asyncio.Lock()
        self.ended = asyncio.Event()
        self.was_asked_to_stop = self.is_out_of_guest = False
        self.guest_pid = self.start_asked_ns = 0
        self.end_message = ""
        """The reason beyond the exit code, set before the exit is reported."""
        self.starting: asyncio.Task[None] | None = None
        self.removers = 0
        self.tell: Callable[[int, str], None] = lambda kind, subject: None
        self.before_end: Callable[[Callable[[], None]], None] = lambda end: end()
        place = LogPlace(record.log_path, log_directory)
        self.log = LogWriter(place, CommitRecord(directory, record.container.id))
        self._feed = LogFeed(self.log, record.container.id)
        self._last: Exited | None = None
        self._config = Parsed(pb.ContainerConfig.FromString)
        if self.status.state == states.EXITED:
            self.ended.set()

    @property
    def id(self) -> str:
        """The container's id."""
        return self.record.container.id

    @property
    def config(self) -> pb.ContainerConfig:
        """The request by which the container was created; not to be changed."""
        return self._config.get(self.record.config)

    @property
    def is_running(self) -> bool:
        """Whether its process runs, as far as is known."""
        return self.status.state == states.RUNNING

    @property
    def is_starting(self) -> bool:
        """Whether the guest was asked to start it and has not answered."""
        return self.starting is not None and not self.starting.done()

    async def start_settled(self) -> None:
        """Wait until the guest has answered, and has ended what it runs although its start was given up."""
        while self.starting is not None and not self.starting.done():
            await asyncio.wait({self.starting})

    def stored(self) -> StoredContainer:
        """The container's part of the pod's file."""
        return StoredContainer(self.record, self.status)

    async def reopen_log(self) -> None:
        """Continue the log, whose file was renamed, in a new one, which exists when this returns.

        Raises NoSpace when it can't be made, WrongState when something else is there; the old one stays open then.
        """
        await self._feed.reopen()

    @property
    def outputs(self) -> dict[str, LogStream]:
        """Both outputs by their names, for those who attach."""
        return self._feed.streams

    def consumers(self, consumed: Consumed) -> dict[int, LogStream]:
        """The log's consumer for each stream of the container; with a terminal there is only stdout."""
        return {stream: self._feed.stream(name, stream, consumed=consumed) for stream, name in self.streams().items()}

    def streams(self) -> dict[int, str]:
        """The container's output streams and their names."""
        streams = {self.record.stdout: "stdout", self.record.stderr: "stderr"}
        return {stream: name for stream, name in streams.items() if stream}

    def started(self, unix_ns: int = 0) -> None:
        """Record that the agent has started the container, unless its exit was reported before."""
        if self.status.state == states.CREATED:
            self.start_answered()
            self._move("start", started_ns=self._moment(unix_ns, self.record.created_ns))

    def start_asked(self) -> None:
        """The guest is about to be asked to start it: it may run from now on, whatever becomes of the answer."""
        self.status = self.status._replace(is_asked=True)

    def start_answered(self) -> None:
        """Whether the guest runs it is known."""
        self.status = self.status._replace(is_asked=False)

    def went_on(self) -> None:
        """Mark it RUNNING: it was running in the guest that was copied, and continues there."""
        self.status = self.status._replace(is_held=False)
        self.started()

    def start_failed(self, why: str) -> None:
        """Mark it EXITED with exit code 128 and reason StartError, as clients expect of one that could not be
        started.
        """
        if self.status.state == states.CREATED:
            now = self._moment(0, self.record.created_ns)
            self._move("start_failed", finished_ns=now, exit_code=128, reason="StartError", message=why)

    def exited(self, event: Exited, then: Callable[[], None] = lambda: None) -> bool:
        """Take in the end of its process, which comes after the last byte of its output; whether it was not known yet.

        It is EXITED, and `then` called, once its log has all of it: at once but for what a thread is writing.
        """
        if self._last is not None or (self.status.state == states.EXITED and not self.status.is_asked):
            return False
        self._last = event
        if self.status.state == states.EXITED:
            return True  # its start was given up

        def end() -> None:
            if self._end():
                then()

        self._feed.when_written(lambda: self.before_end(end))
        return True

    def _end(self) -> bool:
        """Take in how its process ended, unless that was done or is not known; whether it was done now."""
        if self.status.state == states.EXITED or self._last is None:
            return False
        event = self._last
        self.started()
        finished = self._moment(event.unix_ns, self.status.started_ns)
        reason, why = reason_of(event), self.end_message
        self._move("exit", finished_ns=finished, exit_code=event.exit_code, reason=reason, message=why)
        return True

    def _moment(self, unix_ns: int, earliest_ns: int) -> int:
        """A time that the guest reported, 0 for none: clamped so that it is neither in the future nor before earlier
        events, also if the clock was set back meanwhile.
        """
        now = time.time_ns()
        return max(min(unix_ns or now, now), earliest_ns)

    async def logged(self, limit_s: float) -> None:
        """Wait until its log has what came so far, not longer than `limit_s`."""
        await self._feed.written(limit_s)

    def vm_gone(self, why: str) -> None:
        """Mark it EXITED, killed, because its VM has ended; one that was just being started could not be started."""
        if self.status.is_asked and self._last is None:
            self.start_failed(why)
        self.start_answered()
        if not self._end() and self.status.state != states.EXITED:
            now = self._moment(0, self.status.started_ns)
            self._move("vm_exit", finished_ns=now, exit_code=KILLED, reason="Error", message=why)

    def lost(self, why: str = "the guest does not know this container any more") -> None:
        """Record an exit of which nothing is known: EXITED with exit code 255 and reason Unknown, as clients expect."""
        if self.status.state != states.EXITED:
            now = self._moment(0, self.status.started_ns)
            self._move("vm_exit", finished_ns=now, exit_code=255, reason="Unknown", message=why)

    def reconcile(self, listed: messages.Container | None) -> None:
        """Adopt the state in which the guest lists the container; with None the guest does not know it any more."""
        if listed is None:
            self.lost()
            return
        self.guest_pid = listed.pid
        if listed.state != messages.CREATED and not (self.status.is_held and listed.state == messages.RUNNING):
            self.started(listed.started_ns)
        if listed.state == messages.EXITED:
            self.exited(messages.Exited(self.id, 0, listed.exit_code, listed.oom_killed, listed.finished_ns))

    def _move(self, event: str, **changes: int | str) -> None:
        state = states.move(states.CONTAINER_MOVES, self.status.state, event=event)
        self.status = self.status._replace(state=state, **changes)  # type: ignore[arg-type]
        if state == states.EXITED:
            self.ended.set()  # waiters run later, so none sees the exit before the log is complete
            self._feed.finish()
        self.tell(events.STOPPED if state == states.EXITED else events.STARTED, self.id)


def reason_of(event: Exited) -> str:
    """CRI's reason for an exit; a program that survived an OOM kill of its child ended by itself."""
    if event.oom_killed and event.exit_code != 0:
        return "OOMKilled"
    return "Completed" if event.exit_code == 0 else "Error"
