# SPDX-License-Identifier: Apache-2.0
"""Runs inside the lab and starts the commands that clients send over virtio-serial, one at a time on each port.

Started by init.sh; the lab ends with it. One loop, nothing in it blocks. A command whose client goes away is killed
with all that it started. Standard library only, and nothing of what the lab is there to test.
"""

import glob
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from tests.lab import protocol

CGROUPS = "/sys/fs/cgroup/lab"
DETERMINISTIC = bool(os.environ.get("LAB_DETERMINISTIC"))
TICK_MS = 1000 if DETERMINISTIC else 50
"""How often ports without a client are looked at. A deterministic lab skips idle time, and each look disturbs it."""
DRAIN_S = 0.5
"""A daemon that a command left behind may keep its pipes: so long after the command's end we still listen."""
HELD_BYTES = 256 * 1024
CHUNK_BYTES = 32 * 1024


class Command:
    """A running command: its pipes, and a cgroup of its own where there are cgroups."""

    def __init__(self, job: dict[str, Any], cgroup: str) -> None:
        """Raises OSError when it can't start."""
        self.id = job["id"]
        self.pending = bytearray()
        self.input_ended = False
        self._cgroup = cgroup if os.path.isdir(os.path.dirname(cgroup)) else ""
        self._ended_at = 0.0
        self._start(job)

    def _start(self, job: dict[str, Any]) -> None:
        _remove_empty_cgroups()
        cwd = job["cwd"] if os.path.isdir(job["cwd"]) or not job["anywhere"] else "/"
        if self._cgroup:
            os.makedirs(self._cgroup, exist_ok=True)
        self._process = subprocess.Popen(
            job["argv"],
            cwd=cwd,
            env={**os.environ, **job["env"]},
            stdin=subprocess.PIPE if job["input"] else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self._enter,  # noqa: PLW1509  there is one thread
        )
        self._pidfd = os.pidfd_open(self._process.pid)
        assert self._process.stdout and self._process.stderr
        self.outputs = {self._process.stdout.fileno(): "out", self._process.stderr.fileno(): "err"}
        self.input = -1
        if self._process.stdin:
            self.input = self._process.stdin.fileno()
            os.set_blocking(self.input, False)

    def _enter(self) -> None:
        if self._cgroup:
            with open(f"{self._cgroup}/cgroup.procs", "w") as file:
                file.write("0")

    def fds(self, has_space: bool) -> dict[int, int]:
        """What to poll, with which events; outputs only while there is space for them."""
        expected = dict.fromkeys(self.outputs, select.POLLIN) if has_space else {}
        if self.input >= 0 and (self.pending or self.input_ended):
            expected[self.input] = select.POLLOUT
        if not self._ended_at:
            expected[self._pidfd] = select.POLLIN
        return expected

    def step(self, ready: set[int]) -> list[bytes]:
        """Do what became possible; messages for the client."""
        if self.input in ready:
            self._feed()
        messages = [self._read(fd) for fd in list(self.outputs) if fd in ready]
        if self._pidfd in ready:
            self._ended_at = time.monotonic()
        return [message for message in messages if message]

    def _feed(self) -> None:
        try:
            del self.pending[: os.write(self.input, self.pending[:CHUNK_BYTES])]
        except BlockingIOError:
            return
        except OSError:  # it closed its input; that is its right
            self.pending.clear()
            self.input_ended = True
        if self.input_ended and not self.pending and self._process.stdin:
            self._process.stdin.close()
            self.input = -1

    def _read(self, fd: int) -> bytes:
        piece = os.read(fd, CHUNK_BYTES)
        name = self.outputs[fd]
        if not piece:
            del self.outputs[fd]
            return b""
        return protocol.encode(id=self.id, **{name: piece})

    def over(self) -> bool:
        """Whether it ended and its output is read, as far as we wait for that."""
        late = time.monotonic() - self._ended_at > DRAIN_S
        return bool(self._ended_at) and (not self.outputs or late)

    def close(self, *, kill: bool) -> int:
        """Give everything back; the exit code. With `kill`, end it and all it started first."""
        if kill:
            self._kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        os.close(self._pidfd)
        return code

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self._cgroup:
            with open(f"{self._cgroup}/cgroup.kill", "w") as file:
                file.write("1")


def _remove_empty_cgroups() -> None:
    """Those of earlier commands; where a daemon lives that one of them left, this fails and that is right."""
    for directory in glob.glob(f"{CGROUPS}/*/"):
        try:
            os.rmdir(directory)
        except OSError:
            pass


class Port:
    """One port: at most one client, at most one command."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.away = False
        """No client. The kernel then reports POLLHUP all the time, so the port is looked at once a tick."""
        self.command: Command | None = None
        self._lines = protocol.Lines()
        self._out = bytearray()
        self._beat_at = 0.0

    def fds(self) -> dict[int, int]:
        """What to poll for this port."""
        expected = {}
        if not self.away:
            full = self.command is not None and len(self.command.pending) > HELD_BYTES
            expected[self.fd] = (0 if full else select.POLLIN) | (select.POLLOUT if self._out else 0)
        if self.command:
            expected |= self.command.fds(len(self._out) < HELD_BYTES)
        return expected

    def step(self, ready: dict[int, int]) -> None:
        """Move what can move."""
        if self.command:
            self._out += b"".join(self.command.step(set(ready)))
            if self.command.over():
                code = self.command.close(kill=False)
                self._out += protocol.encode(id=self.command.id, code=code)
                self.command = None
            elif not DETERMINISTIC and time.monotonic() > self._beat_at:
                self._beat_at = time.monotonic() + protocol.BEAT_S
                self._out += protocol.encode(id=self.command.id, beat=True)
        events = ready.get(self.fd, 0)
        if events & select.POLLIN:
            self._read()
        elif events & (select.POLLHUP | select.POLLERR):
            self._hang_up()
        if self._out and not self.away:
            self._write()

    def _read(self) -> None:
        try:
            piece = os.read(self.fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._hang_up()
        for message in self._lines.feed(piece):
            self._obey(message)

    def _write(self) -> None:
        try:
            del self._out[: os.write(self.fd, self._out[:CHUNK_BYTES])]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()

    def _obey(self, message: dict[str, Any]) -> None:
        if "argv" in message:
            # A client that came before we saw the last one go.
            self._drop_command()
            self._begin(message)
        elif self.command and message["id"] == self.command.id:
            if "in" in message:
                self.command.pending += protocol.data(message, "in")
            self.command.input_ended |= "end" in message

    def _begin(self, job: dict[str, Any]) -> None:
        try:
            self.command = Command(job, f"{CGROUPS}/{os.getpid()}-{self.fd}-{time.monotonic_ns()}")
        except (OSError, subprocess.SubprocessError) as error:
            missing = isinstance(error, FileNotFoundError)
            self._out += protocol.encode(id=job["id"], err=f"lab: can't run it: {error}\n".encode())
            self._out += protocol.encode(id=job["id"], code=protocol.NOT_FOUND if missing else protocol.NOT_EXECUTABLE)

    def _drop_command(self) -> None:
        self._out.clear()
        if self.command:
            self.command.close(kill=True)
            self.command = None

    def _hang_up(self) -> None:
        self._drop_command()
        self._lines = protocol.Lines()
        self.away = True

    def accept(self) -> None:
        """See whether a client came."""
        poll = select.poll()
        poll.register(self.fd, 0)
        self.away = bool(poll.poll(0))


def serve(ports: list[Port]) -> None:
    """For ever."""
    while True:
        poll = select.poll()
        for port in ports:
            for fd, events in port.fds().items():
                poll.register(fd, events)
        ready = dict(poll.poll(TICK_MS))
        for port in ports:
            port.step(ready)
            if port.away:
                port.accept()


def find_ports() -> list[Port]:
    """The lab's virtio-serial ports, once all are there."""
    result: list[str] = []
    while len(result) < protocol.PORTS:
        result = []
        for directory in glob.glob("/sys/class/virtio-ports/*"):
            with open(f"{directory}/name") as file:
                if file.read().startswith(protocol.PORT_NAME):
                    result.append("/dev/" + os.path.basename(directory))
        time.sleep(0.05)
    return [Port(os.open(device, os.O_RDWR | os.O_CLOEXEC)) for device in sorted(result)]


def main() -> None:
    """Serve the lab's ports, or the descriptors given as arguments, which is for tests."""
    given = [Port(int(number)) for number in sys.argv[1:]]
    serve(given or find_ports())


if __name__ == "__main__":
    main()
