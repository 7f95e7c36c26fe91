# SPDX-License-Identifier: Apache-2.0
"""What the fake guest knows of containers: the operations of proto/agent/agent.proto on host subprocesses.

Used by tests/fakes/guest.py, in its one thread, which moves the bytes of the jobs that this makes.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stage1.guest import messages as m
from tests.fakes.guest_connections import Connection
from tests.fakes.guest_jobs import CommandMissing, Job
from tests.fakes.guest_link import GuestLink
from tests.fakes.guest_numbers import numbers_of, numbers_of_guest


@dataclass
class Faults:
    """What goes wrong. May be changed while the guest runs."""

    silent: bool = False  # takes and says nothing, as a VM that was stopped by SIGSTOP
    boot_s: float = 0.0  # until it looks at the link
    reply_delay_s: float = 0.0
    cut_after_bytes: list[int] = field(default_factory=list)  # cuts the connection each so many bytes, once
    die_on: type[m.Op] | None = None  # the VM ends when this is asked
    ignore: type[m.Op] | tuple[type[m.Op], ...] | None = None  # never answers these
    refuse: dict[type[m.Op], m.Reply] = field(default_factory=dict)
    lie: dict[type[m.Op], Callable[[m.Reply], m.Reply]] = field(default_factory=dict)  # what is answered instead
    exit_ns: int | None = None  # what is said of the time of an end
    oom: set[str] = field(default_factory=set)  # containers whose end is called an OOM kill


@dataclass
class _Container:
    create: m.Create
    state: int = m.CREATED
    job: Job | None = None
    exit_code: int = 0
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0

    def as_message(self) -> m.Container:
        return m.Container(
            id=self.create.id,
            state=self.state,
            stdio=self.create.stdio,
            pid=self.job.pid if self.job and self.state == m.RUNNING else 0,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            started_ns=self.started_ns,
            finished_ns=self.finished_ns,
        )


class Refused(Exception):
    """An operation that failed: code and text of the reply."""

    def __init__(self, code: int, text: str) -> None:
        self.reply = m.Reply(code=code, error=text)
        super().__init__(text)


class Containers:
    """All containers of a guest, and the jobs that run. `configured` has what Configure said."""

    def __init__(self, link: GuestLink, volumes: str, temp: str, *, faults: Faults) -> None:
        self.configured: list[m.Configure] = []
        self.jobs: list[Job] = []
        self._link, self._volumes, self._temp, self._faults = link, volumes, temp, faults
        self._containers: dict[str, _Container] = {}

    def kill_all(self, *, execs_only: bool = False) -> None:
        """Kill what runs; the ends are then seen as always."""
        for job in list(self.jobs):
            if job.number or not execs_only:
                job.signal(signal.SIGKILL, everything=True)
                self.finish(job)  # which a process is only later

    def finish(self, job: Job) -> None:
        """Say that a job ended, if it has."""
        if not job.done or job not in self.jobs:
            return
        if isinstance(job, Connection):
            job.close()
            self.jobs.remove(job)
            return
        assert job.exit_code is not None
        job.close()
        self.jobs.remove(job)
        oom = not job.number and job.owner in self._faults.oom
        now = time.time_ns() if self._faults.exit_ns is None else self._faults.exit_ns
        container = self._containers.get(job.owner)
        if container is not None and container.job is job:
            container.state, container.exit_code = m.EXITED, job.exit_code
            container.oom_killed, container.finished_ns = oom, now
        self._link.event(m.Exited(job.owner, job.number, job.exit_code, oom, now))

    def do(self, op: m.Op) -> m.Reply:
        """Do what the host asks for."""
        if type(op) in self._faults.refuse:
            return self._faults.refuse[type(op)]
        try:
            reply: m.Reply = getattr(self, f"_op_{type(op).__name__.lower()}")(op)
            return self._faults.lie.get(type(op), lambda true: true)(reply)
        except Refused as refused:
            return refused.reply
        except CommandMissing as missing:
            return m.Reply(code=m.NO_COMMAND, error=str(missing))

    def _find(self, name: str) -> _Container:
        if name not in self._containers:
            raise Refused(m.NOT_FOUND, f"no container {name}")
        return self._containers[name]

    def _find_job(self, name: str, number: int) -> Job:
        container = self._find(name)
        if number:
            for job in self.jobs:
                if (job.owner, job.number) == (name, number):
                    return job
            raise Refused(m.NOT_FOUND, f"container {name} has no exec {number}")
        if container.job is None or container.state != m.RUNNING:
            raise Refused(m.WRONG_STATE, f"container {name} is not running")
        return container.job

    def _document(self, name: str, file: str) -> dict[str, Any]:
        try:
            with open(f"{self._volumes}/containers/{name}/{file}", encoding="utf-8", errors="surrogateescape") as text:
                document: dict[str, Any] = json.load(text)
                return document
        except (OSError, ValueError) as error:
            raise Refused(m.FAILED, f"cannot read {file} of container {name}: {error}") from None

    def _run_job(self, job: Job, process: dict[str, Any]) -> m.Reply:
        cwd = f"{self._temp}/{job.owner}"
        os.makedirs(cwd, exist_ok=True)
        job.start(process, cwd)
        self.jobs.append(job)
        return m.Reply(pid=job.pid)

    def _open_streams(self, stdio: m.Stdio) -> None:
        for stream in (stdio.stdin, stdio.stdout, stdio.stderr):
            self._link.open_stream(stream)

    def _op_configure(self, op: m.Configure) -> m.Reply:
        self.configured.append(op)
        return m.Reply()

    def _op_create(self, op: m.Create) -> m.Reply:
        if op.id in self._containers:
            raise Refused(m.EXISTS, f"container {op.id} exists")
        if not op.id or "/" in op.id:
            raise Refused(m.INVALID, f"{op.id!r} is no name for a container")
        self._containers[op.id] = _Container(op)
        self._open_streams(op.stdio or m.Stdio())
        return m.Reply()

    def _op_start(self, op: m.Start) -> m.Reply:
        container = self._find(op.id)
        if container.state != m.CREATED:
            raise Refused(m.WRONG_STATE, f"container {op.id} was started already")
        job = Job(op.id, 0, container.create.stdio or m.Stdio())
        reply = self._run_job(job, self._document(op.id, "config.json")["process"])
        container.job, container.state, container.started_ns = job, m.RUNNING, time.time_ns()
        return reply

    def _op_exec(self, op: m.Exec) -> m.Reply:
        self._find_job(op.container, 0)
        if not op.exec or any(job.number == op.exec for job in self.jobs):
            raise Refused(m.EXISTS if op.exec else m.INVALID, f"{op.exec} can't be the number of an exec")
        stdio = op.stdio or m.Stdio()
        self._open_streams(stdio)
        return self._run_job(Job(op.container, op.exec, stdio), self._document(op.container, op.process))

    def _op_signal(self, op: m.Signal) -> m.Reply:
        if not 0 < op.signal <= signal.SIGRTMAX:
            raise Refused(m.INVALID, f"there is no signal {op.signal}")
        self._find_job(op.container, op.exec).signal(op.signal, op.all)
        return m.Reply()

    def _op_delete(self, op: m.Delete) -> m.Reply:
        self._find(op.id)
        for job in self.jobs:
            if job.owner == op.id:
                job.signal(signal.SIGKILL, everything=True)
        del self._containers[op.id]
        shutil.rmtree(f"{self._temp}/{op.id}", ignore_errors=True)
        return m.Reply()

    def _op_update(self, op: m.Update) -> m.Reply:
        self._find(op.id)
        if op.resources:
            self._document(op.id, op.resources)
        return m.Reply()

    def _op_tune(self, op: m.Tune) -> m.Reply:
        if not (op.file == "cpus" or op.file.startswith(("memory.", "cpu."))) or "/" in op.file or not op.text:
            raise Refused(m.INVALID, f"'{op.file}' can't be set for the whole pod")
        return m.Reply()

    def _op_freeze(self, op: m.Freeze) -> m.Reply:
        if op.container:
            self._find_job(op.container, 0)
        return m.Reply()

    def _op_shares(self, _: m.Shares) -> m.Reply:
        return m.Reply()

    def _op_resize(self, op: m.Resize) -> m.Reply:
        job = self._find_job(op.container, op.exec)
        if not job.stdio.tty:
            raise Refused(m.INVALID, "the process has no terminal")
        if job.terminal >= 0:
            job.resize(op.width, op.height)
        return m.Reply()

    def _op_connect(self, op: m.Connect) -> m.Reply:
        if not op.connection or not 0 < op.port < 65536 or not op.input or not op.output:
            raise Refused(m.INVALID, f"connection {op.connection} to port {op.port} is invalid")
        if any(job.number == op.connection and isinstance(job, Connection) for job in self.jobs):
            raise Refused(m.EXISTS, f"connection {op.connection} exists")
        try:
            connection = Connection(op)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise Refused(m.FAILED, f"connect to port {op.port} of the pod's loopback: {reason}") from None
        self._link.open_stream(op.input)
        self._link.open_stream(op.output)
        self.jobs.append(connection)
        return m.Reply()

    def _op_disconnect(self, op: m.Disconnect) -> m.Reply:
        for job in [job for job in self.jobs if isinstance(job, Connection) and job.number == op.connection]:
            job.close()
            self.jobs.remove(job)
        return m.Reply()

    def _op_list(self, _: m.List) -> m.Reply:
        return m.Reply(containers=tuple(c.as_message() for c in self._containers.values()))

    def _op_stats(self, op: m.Stats) -> m.Reply:
        running = [c for c in self._containers.values() if c.state == m.RUNNING and c.job is not None]
        result = tuple(numbers_of(c.create.id, c.job.pid, op) for c in running if c.job)
        return m.Reply(stats=result, pod=numbers_of_guest(result))

    def _op_mountimage(self, _: m.MountImage) -> m.Reply:
        raise Refused(m.WRONG_STATE, "this guest has no window for images")

    def _op_unmountimage(self, op: m.UnmountImage) -> m.Reply:
        raise Refused(m.NOT_FOUND, f"no image '{op.name}' in the window")

    def _op_launch(self, op: m.Launch) -> m.Reply:
        raise Refused(m.WRONG_STATE, f"app {op.id} can't be started here and now")

    def _op_halt(self, _: m.Halt) -> m.Reply:
        raise Refused(m.WRONG_STATE, "this pod has no apps")

    def _op_shutdown(self, _: m.Shutdown) -> m.Reply:
        self.kill_all()
        return m.Reply()
