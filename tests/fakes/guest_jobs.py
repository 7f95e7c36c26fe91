# SPDX-License-Identifier: Apache-2.0
"""Processes of the fake guest: host subprocesses that stand for containers and execs, without any isolation.

Used by tests/fakes/guest.py, in its one thread. A Job knows pipes and terminals, nothing of the link.
"""

import errno
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
from typing import Any

from stage1.guest.messages import Stdio

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandMissing(Exception):
    """What crun would say of a command that it can't execute."""


def find_command(name: str, env: dict[str, str]) -> str:
    """Return the path of a command. Raises CommandMissing with crun's words."""
    if "/" in name:
        number = 0 if os.access(name, os.X_OK) else errno.EACCES if os.path.exists(name) else errno.ENOENT
        if os.path.isdir(name):
            number = errno.EACCES
        if number:
            raise CommandMissing(f"open executable: {name}: {os.strerror(number)}")
        return name
    path = shutil.which(name, path=env.get("PATH", DEFAULT_PATH))
    if path is None:
        raise CommandMissing(f'executable file "{name}" not found in $PATH: No such file or directory')
    return path


class Job:
    """A process made from an OCI process object. `outputs` maps descriptors to the streams they feed."""

    def __init__(self, owner: str, number: int, stdio: Stdio) -> None:
        self.owner, self.number, self.stdio = owner, number, stdio
        self.outputs: dict[int, int] = {}
        self.input = bytearray()
        self.input_ends = False
        self.stdin = self.pidfd = self.terminal = -1
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The host's pid."""
        assert self._process is not None
        return self._process.pid

    @property
    def done(self) -> bool:
        """The process ended and all its output was read."""
        return self.exit_code is not None and not self.outputs

    def start(self, process: dict[str, Any], cwd: str) -> None:
        """Start it. Raises CommandMissing."""
        env = dict(word.split("=", 1) for word in process.get("env", ()) if "=" in word)
        path = find_command(process["args"][0], env)
        theirs = self._open_terminal() if self.stdio.tty else self._open_pipes()
        # setsid makes the terminal on standard input the controlling one, which Popen can't without a fork.
        arguments = ["setsid", "--ctty", path, *process["args"][1:]] if self.stdio.tty else process["args"]
        how: dict[str, Any] = {"env": env, "cwd": cwd, "start_new_session": not self.stdio.tty}
        how |= zip(("stdin", "stdout", "stderr"), theirs, strict=True)
        try:
            try:
                self._process = subprocess.Popen(arguments, executable=None if self.stdio.tty else path, **how)
            except OSError:  # as of arguments that are too long, of which crun hears when the process has begun
                self._process = subprocess.Popen(["/bin/sh", "-c", "exit 126"], **(how | {"env": {}}))
        except BaseException:
            self.close()
            raise
        finally:
            for fd in {*theirs}:
                os.close(fd)
        self.pidfd = os.pidfd_open(self.pid)

    def _open_terminal(self) -> tuple[int, int, int]:
        self.terminal, theirs = pty.openpty()
        self.resize(self.stdio.width, self.stdio.height)
        if self.stdio.stdout:
            self.outputs[self.terminal] = self.stdio.stdout
        if self.stdio.stdin:
            self.stdin = os.dup(self.terminal)
            os.set_blocking(self.stdin, False)
        return theirs, theirs, theirs

    def _open_pipes(self) -> tuple[int, int, int]:
        stdin = os.open("/dev/null", os.O_RDONLY)
        if self.stdio.stdin:
            os.close(stdin)
            stdin, self.stdin = os.pipe()
            os.set_blocking(self.stdin, False)
        return stdin, self._open_output(self.stdio.stdout), self._open_output(self.stdio.stderr)

    def _open_output(self, stream: int) -> int:
        if not stream:
            return os.open("/dev/null", os.O_WRONLY)
        ours, theirs = os.pipe()
        self.outputs[ours] = stream
        return theirs

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size, in characters."""
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, fd: int, size: int) -> bytes:
        """Read output; b"" is its end."""
        try:
            data = os.read(fd, size)
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            os.close(fd)
            del self.outputs[fd]
            self.terminal = -1 if fd == self.terminal else self.terminal
        return data

    def write(self) -> int:
        """Write waiting input; return how many bytes are gone, also when the process does not want them."""
        try:
            count = os.write(self.stdin, self.input[:65536]) if self.input else 0
        except BlockingIOError:
            count = 0
        except OSError:
            count, self.input_ends = len(self.input), True
        del self.input[:count]
        if self.input_ends and not self.input and not self.stdio.tty:
            self.close_input()
        return count

    def close_input(self) -> None:
        """End standard input; a terminal has no end, and is closed with its process."""
        os.close(self.stdin)
        self.stdin = -1

    def signal(self, number: int, everything: bool = False) -> None:
        """Send a signal, to the whole session if asked. Gone already is fine."""
        try:
            (os.killpg if everything else os.kill)(self.pid, number)
        except ProcessLookupError:
            pass

    def reap(self) -> None:
        """After the pidfd became readable: take the exit code, and end what the process left behind."""
        assert self._process is not None
        code = self._process.wait()
        self.exit_code = code if code >= 0 else 128 - code
        os.close(self.pidfd)
        self.pidfd = -1
        self.signal(signal.SIGKILL, everything=True)
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        """Kill it and close everything."""
        if self._process is not None and self.exit_code is None:
            self.signal(signal.SIGKILL, everything=True)
            self.reap()
        for fd in {*self.outputs, self.stdin, self.terminal} - {-1}:
            os.close(fd)
        self.outputs, self.stdin, self.terminal = {}, -1, -1
