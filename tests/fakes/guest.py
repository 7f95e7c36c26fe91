# SPDX-License-Identifier: Apache-2.0
"""A guest without a VM: the agent's end of the link on a unix socket, containers as host subprocesses.

`FakeVmm` takes the place of ProcessVmm, and starts in a millisecond; `FakeGuest` is the guest alone. Both run
in a thread of this process. `Faults` makes them misbehave. Held to the real agent by
tests/contract/test_guest_link.py. It isolates nothing: only give it commands that may run on the host.
"""

import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable

from stage1.guest import messages as m
from stage1.linux.libc import Guard
from stage1.linux.process import spawn, start_time
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.vmm import VmProcess
from tests.fakes.guest_containers import Containers, Faults
from tests.fakes.guest_jobs import Job
from tests.fakes.guest_link import Asked, EpochBegan, GuestLink, Input

__all__ = ["FakeGuest", "FakeVmm", "Faults"]


class FakeGuest:
    """Serves the unix socket `path`. `volumes` is the directory that is exported as the 9p tag of that name.

    `asked` and `configured` record what the host asked for. Use it as a context manager, or `start` and
    `stop`.
    """

    def __init__(self, path: str, volumes: str, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.asked: list[m.Op] = []
        self._link = GuestLink(m.Hello(
            boot_id=int.from_bytes(os.urandom(8), "little"), init_ns=1, ready_ns=2, kernel="fake",
            volumes=True, raw=True, guest_volumes=True, copies=True,
        ))  # fmt: skip
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._connection: socket.socket | None = None
        self._pending = b""
        self._sent_bytes = 0
        self._ended = self._cut = False
        self._vmm = self._vmm_pidfd = -1
        self._temp = tempfile.mkdtemp(prefix="fake-guest-", dir=os.path.dirname(path))  # it goes with the pod
        self._containers = Containers(self._link, volumes, self._temp, faults=self.faults)
        self._wake = os.eventfd(0)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._boots_until = 0.0
        self._thread = threading.Thread(target=self._run, name="fake guest", daemon=True)

    def __enter__(self) -> "FakeGuest":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def configured(self) -> list[m.Configure]:
        """What Configure said, each time."""
        return self._containers.configured

    def start(self, vmm: int = -1) -> "FakeGuest":
        """Begin to serve; end when the process `vmm`, a child of ours, ends."""
        if vmm >= 0:
            self._vmm, self._vmm_pidfd = vmm, os.pidfd_open(vmm)
        self._boots_until = time.monotonic() + self.faults.boot_s
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the guest and everything in it."""
        self._ended = True
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)
            self.join(10)
            os.close(self._wake)
            self._wake = -1

    def join(self, timeout_s: float) -> bool:
        """Wait until it has ended; true if it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def cut(self) -> None:
        """Cut the connection, as a transport may at any time."""
        self._cut = True
        os.eventfd_write(self._wake, 1)

    def wake(self) -> None:
        """Have it see that `faults` were changed."""
        os.eventfd_write(self._wake, 1)

    # The loop

    def _run(self) -> None:
        try:
            while not self._ended:
                self._step()
        finally:
            self._end()

    def _step(self) -> None:
        self._send()
        actions = self._watches()
        poll = select.poll()
        for fd, (events, _) in actions.items():
            poll.register(fd, events)
        for fd, _ in poll.poll(self._timeout_ms()):
            if not self._ended:
                actions[fd][1]()
        if self._cut:
            self._cut = False
            self._disconnect()
        now = time.monotonic()
        due = [action for at, action in self._later if at <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for action in due:
            action()

    def _timeout_ms(self) -> float | None:
        moments = [at for at, _ in self._later]
        if self._boots_until > time.monotonic():
            moments.append(self._boots_until)
        return max(0.0, min(moments) - time.monotonic()) * 1000 + 1 if moments else None

    def _watches(self) -> dict[int, tuple[int, Callable[[], None]]]:
        result: dict[int, tuple[int, Callable[[], None]]] = {self._wake: (select.POLLIN, self._woken)}
        if self._vmm_pidfd >= 0:
            result[self._vmm_pidfd] = (select.POLLIN, self._power_off)
        if self._connection is None:
            result[self._listener.fileno()] = (select.POLLIN, self._accept)
        elif self._boots_until <= time.monotonic() and not self.faults.silent:
            events = select.POLLIN | (select.POLLOUT if self._pending else 0)
            result[self._connection.fileno()] = (events, self._receive)
        for job in self._containers.jobs:
            self._watch_job(job, result)
        return result

    def _watch_job(self, job: Job, watched: dict[int, tuple[int, Callable[[], None]]]) -> None:
        if job.pidfd >= 0:
            watched[job.pidfd] = (select.POLLIN, lambda: self._reap(job))
        if job.stdin >= 0 and (job.input or (job.input_ends and not job.stdio.tty)):
            watched[job.stdin] = (select.POLLOUT, lambda: self._feed(job))
        for fd, stream in job.outputs.items():
            if self._link.sendable(stream):
                watched[fd] = (select.POLLIN, lambda fd=fd: self._read(job, fd))  # type: ignore[misc]

    def _woken(self) -> None:
        os.eventfd_read(self._wake)

    def _power_off(self) -> None:
        self._ended = True

    def _end(self) -> None:
        for job in self._containers.jobs:
            job.close()
        self._disconnect()
        self._listener.close()
        shutil.rmtree(self._temp, ignore_errors=True)
        if self._vmm_pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._vmm_pidfd, signal.SIGKILL)
                os.waitid(os.P_PIDFD, self._vmm_pidfd, os.WEXITED)
            except (ProcessLookupError, ChildProcessError):
                pass  # whoever waited for the VM was faster
            os.close(self._vmm_pidfd)

    # The connection

    def _accept(self) -> None:
        self._connection, _ = self._listener.accept()
        self._connection.setblocking(False)
        self._link.connected()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection, self._pending = None, b""
            self._link.disconnected()

    def _receive(self) -> None:
        if self._connection is None:
            return
        try:
            data = self._connection.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
        for item in self._link.receive(data):
            if isinstance(item, Asked):
                self._ask(item)
            elif isinstance(item, Input):
                self._take_input(item)
            elif isinstance(item, EpochBegan):
                self._begin_epoch()

    def _send(self) -> None:
        if self._connection is None or self.faults.silent:
            return
        self._pending += self._link.outgoing()
        limit = self.faults.cut_after_bytes[0] - self._sent_bytes if self.faults.cut_after_bytes else 1 << 30
        try:
            count = self._connection.send(self._pending[:limit]) if self._pending and limit > 0 else 0
        except BlockingIOError:
            return
        except OSError:
            self._disconnect()
            return
        self._pending = self._pending[count:]
        self._sent_bytes += count
        if count >= limit:
            del self.faults.cut_after_bytes[0]
            self._sent_bytes = 0
            self._disconnect()

    def _begin_epoch(self) -> None:
        self._later.clear()
        self._containers.kill_all(execs_only=True)

    # Processes

    def _read(self, job: Job, fd: int) -> None:
        stream = job.outputs[fd]
        data = job.read(fd, self._link.sendable(stream))
        self._link.send(stream, data, end=not data)
        self._containers.finish(job)

    def _feed(self, job: Job) -> None:
        if job.stdin >= 0:
            self._link.consumed(job.stdio.stdin, job.write())
            self._containers.finish(job)  # of a connection the end of the input may be the last thing

    def _take_input(self, item: Input) -> None:
        for job in self._containers.jobs:
            if job.stdio.stdin == item.stream and job.stdin >= 0:
                job.input += item.data
                job.input_ends |= item.end
                return
        self._link.consumed(item.stream, len(item.data))

    def _reap(self, job: Job) -> None:
        job.reap()
        self._containers.finish(job)

    # Operations

    def _ask(self, asked: Asked) -> None:
        op = asked.op
        if op is None:
            return self._link.reply(asked.id, m.Reply(code=m.INVALID, error="no such operation"))
        self.asked.append(op)
        if type(op) is self.faults.die_on:
            return self._power_off()
        if self.faults.ignore and isinstance(op, self.faults.ignore):
            return None
        reply = self._containers.do(op)
        if isinstance(op, m.Shutdown):  # long enough for the reply to leave, as the real agent waits for it
            self._later.append((time.monotonic() + 0.02, self._power_off))
        if self.faults.reply_delay_s:
            at = time.monotonic() + self.faults.reply_delay_s
            self._later.append((at, lambda: self._link.reply(asked.id, reply)))
        else:
            self._link.reply(asked.id, reply)
        return None


class FakeVmm:
    """Starts fake guests. `guests` maps the name of a VM to its guest; `faults` is what the next ones get."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.guests: dict[str, FakeGuest] = {}
        self.started: list[VmSpec] = []

    def start(self, vm: VmSpec) -> VmProcess:
        """Start an instant VM. Its pid is a sleeping process's, which serves its volumes too; killing that ends the
        guest.
        """
        assert isinstance(vm.link, SerialLink), "the fake guest has no vsock"
        volumes = next(share.path for share in vm.shares if share.tag == "volumes")
        console = f"{vm.run_dir}/console.log"
        with Guard("open", console), open(console, "a", encoding="utf-8") as log:
            log.write("fake guest: Linux version 0.0.0-fake\n")
        guest = FakeGuest(vm.link.socket, volumes, self.faults)
        pid = spawn(["/usr/bin/sleep", "infinity"])
        self.started.append(vm)
        self.guests[vm.name] = guest.start(pid)
        return VmProcess(pid, start_time(pid), console, (pid, start_time(pid)))

    def stop(self) -> None:
        """End all guests; for fixtures."""
        for guest in self.guests.values():
            guest.stop()
        self.guests.clear()
