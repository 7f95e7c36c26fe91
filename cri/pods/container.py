# SPDX-License-Identifier: Apache-2.0
"""One container of a live pod: its state, its log, and who waits for its end.

Owned by the pod, which talks to the agent. Moves follow stage1.pod.states; there is no I/O here but the log.
"""

import asyncio
import os
import time

from cri.logs import LogWriter
from cri.pods.outlet import Outlet, Portion
from cri.store.pods import ContainerRecord, ContainerState, StoredContainer
from stage1.guest.messages import Exited
from stage1.pod import states

KILLED = 137
"""Exit code of what died with its VM: as by SIGKILL."""


class LogStream:
    """A consumer (`cri.agent.Consumer`) that writes one of the container's streams to its log, and to the attached."""

    def __init__(self, writer: LogWriter, stream: str) -> None:
        self._writer, self._stream = writer, stream
        self.followers: list[Outlet] = []
        """Who is attached; the data is done with when the slowest has it."""

    def feed(self, data: bytes, *, seq: int, end: bool) -> int:
        """For the log everything is done with at once: it is in the page cache."""
        self._writer.feed(self._stream, data, seq=seq, end=end)
        if not self.followers:
            return len(data)
        if data:
            portion = Portion(data, len(self.followers), give_back=self.followers[0].give_back)
            for follower in self.followers:
                follower.put(portion)
        if end:
            self.finish()
        return 0

    def finish(self) -> None:
        """Nothing more comes."""
        for follower in self.followers:
            follower.finish()

    def commit(self) -> None:
        """Before the acknowledgement."""
        self._writer.commit()


class LiveContainer:
    """`ended` is set once the container is EXITED. `lock` orders start, stop and remove."""

    def __init__(self, record: ContainerRecord, directory: str, status: ContainerState | None = None) -> None:
        self.record = record
        self.status = status or ContainerState()
        self.lock = asyncio.Lock()
        self.ended = asyncio.Event()
        self.was_asked_to_stop = False
        self.guest_pid = 0
        os.makedirs(f"{directory}/logs", 0o700, exist_ok=True)
        self.log = LogWriter(record.log_path, f"{directory}/logs/{record.container.id}.json")
        self.outputs = {name: LogStream(self.log, name) for name in ("stdout", "stderr")}
        if self.status.state == states.EXITED:
            self.ended.set()

    @property
    def id(self) -> str:
        """The container's id."""
        return self.record.container.id

    @property
    def is_running(self) -> bool:
        """Whether its process runs, as far as is known."""
        return self.status.state == states.RUNNING

    def stored(self) -> StoredContainer:
        """What goes into the pod's file."""
        return StoredContainer(self.record, self.status)

    def consumers(self) -> dict[int, LogStream]:
        """The log's consumer for each stream of the container; with a terminal there is only stdout."""
        streams = {self.record.stdout: "stdout", self.record.stderr: "stderr"}
        return {stream: self.outputs[name] for stream, name in streams.items() if stream}

    def started(self, unix_ns: int = 0) -> None:
        """The agent started it. An exit that came before the answer has already said so."""
        if self.status.state == states.CREATED:
            self._move("start", started_ns=unix_ns or time.time_ns())

    def start_failed(self, why: str) -> None:
        """Contract section 4: a failed start leaves EXITED, 128, StartError."""
        if self.status.state == states.CREATED:
            self._move("start_failed", finished_ns=time.time_ns(), exit_code=128, reason="StartError", message=why)

    def exited(self, event: Exited) -> None:
        """Its process ended, after the last byte of its output. Heard twice is fine."""
        if self.status.state == states.EXITED:
            return
        self.started()
        finished = max(event.unix_ns or time.time_ns(), self.status.started_ns)
        self._move("exit", finished_ns=finished, exit_code=event.exit_code, reason=reason_of(event))

    def vm_gone(self, why: str) -> None:
        """Its VM ended under it."""
        if self.status.state != states.EXITED:
            now = time.time_ns()
            self._move("vm_exit", finished_ns=now, exit_code=KILLED, reason="Error", message=why)

    def lost(self) -> None:
        """Nobody knows how it ended: contract section 4, 255 and Unknown."""
        if self.status.state != states.EXITED:
            why = "the guest does not know this container any more"
            self._move("vm_exit", finished_ns=time.time_ns(), exit_code=255, reason="Unknown", message=why)

    def _move(self, event: str, **changes: int | str) -> None:
        state = states.move(states.CONTAINER_MOVES, self.status.state, event=event)
        self.status = self.status._replace(state=state, **changes)  # type: ignore[arg-type]
        if state == states.EXITED:
            self.log.flush()
            for output in self.outputs.values():
                output.finish()
            self.ended.set()


def reason_of(event: Exited) -> str:
    """CRI's reason for an exit; a program that survived an OOM kill of its child ended by itself."""
    if event.oom_killed and event.exit_code != 0:
        return "OOMKilled"
    return "Completed" if event.exit_code == 0 else "Error"
