# SPDX-License-Identifier: Apache-2.0
"""A VMM that runs: known again later, also from another process. It is started by `starter`, or by rkt's launcher.

Called by the engine; `Vmm` is the seam that tests fill with an instant fake.

console.log holds what the VMM and the guest's console write, and a guest may write for ever. RLIMIT_FSIZE
would hit the scratch disk and the volumes too, a pipe needs a resident reader; so whoever owns the pod calls
`trim_console` now and then, which frees all but the file's end.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Protocol

from stage1.errors import Exhausted, NotFound, PodError, VmFailed
from stage1.linux import beneath, files, process
from stage1.linux.libc import explained
from stage1.vm import hypervisors
from stage1.vm.host import HostPod
from stage1.vm.spec import VmSpec


class Vmm(Protocol):
    """Whatever can start a VM, and the agent of a pod on the host."""

    def start(self, vm: VmSpec | HostPod) -> VmProcess:
        """Start it and return at once; the guest, or the agent, boots meanwhile. Raises VmFailed, BadRequest."""
        ...


AGENT = "agent"
"""The program of pods on the host, in the directory of the guest's files."""
CONSOLE_KEEP_BYTES = 1 << 20
_DEATH_S = 10.0


class VmProcess(NamedTuple):
    """A VMM: its pid, when it started (clock ticks since boot), and the file with its console.

    `server` is the same of the process that serves its volumes, without which it is of no use; empty without one.
    """

    pid: int
    start_time: int
    console: str
    server: tuple[int, int] | tuple[()] = ()

    def alive(self) -> bool:
        """Whether it still runs."""
        return not self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, at most `timeout_s`; true if it has."""
        handle = process.open_process(self.pid, self.start_time)
        if handle is None:
            return True
        with handle:
            return handle.wait(timeout_s)

    def age_s(self) -> float:
        """Seconds since its start."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_time / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it at once and wait for its end; fine when it has ended. The guest is not asked.

        Raises VmFailed when the kernel can't end it, which a disk that does not answer may cause.
        """
        handle = process.open_process(self.pid, self.start_time)
        if handle is None:
            return
        with handle:
            handle.kill(process.SIGKILL)
            if not handle.wait(_DEATH_S):
                raise VmFailed(f"the VMM (pid {self.pid}) did not end within {_DEATH_S:g} s of SIGKILL")

    def console_tail(self, lines: int = 20) -> str:
        """The console's last lines, what can not be printed replaced: a guest wrote them."""
        try:
            fd = self._open_console(os.O_RDONLY)
            try:
                text = files.tail(fd, lines)
            finally:
                os.close(fd)
        except PodError:
            return ""
        return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)

    def trim_console(self) -> None:
        """Give back the space of all but the console's end; its length stays. Fine while the VMM writes."""
        try:
            fd = self._open_console(os.O_WRONLY)
        except FileNotFoundError:
            return
        try:
            files.forget_head(fd, CONSOLE_KEEP_BYTES)
        finally:
            os.close(fd)

    def _open_console(self, flags: int) -> int:
        directory, name = os.path.split(self.console)
        with beneath.Root(directory) as own:
            return own.open(name, flags)

    def to_json(self) -> dict[str, int | str]:
        """The state for `record`, so that another process can adopt the VMM."""
        served = dict(zip(("server_pid", "server_start_time"), self.server, strict=False))
        return {"pid": self.pid, "start_time": self.start_time, "console": self.console, **served}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> VmProcess:
        """The inverse of `to_json`; other keys are ignored. Raises VmFailed if the record is damaged."""
        console, who = record.get("console"), _identity(record.get("pid"), record.get("start_time"))
        if not (isinstance(console, str) and who):
            raise VmFailed(f"the record of a VMM is damaged: {str(record)[:200]}")
        return cls(*who, console, _identity(record.get("server_pid"), record.get("server_start_time")))


def _identity(pid: object, start_time: object) -> tuple[int, int] | tuple[()]:
    """Return the identity of a process from untrusted values; empty when they are invalid."""
    if not (isinstance(pid, int) and isinstance(start_time, int)):
        return ()
    return (pid, start_time) if 1 < pid < 2**31 and 0 <= start_time < 2**63 else ()


def find_unrecorded(directory: str) -> VmProcess | None:
    """The VMM that has files below `directory` on its command line; None when there is none.

    That is how to find one whose starter was killed before it could write down who it is.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        argv = command_line(name)
        if is_vmm(argv[0]) and any(f"{directory}/" in f"{word}/" for word in argv[1:]):
            try:
                return VmProcess(int(name), process.start_time(int(name)), f"{directory}/console.log")
            except NotFound:
                continue
    return None


def command_line(pid: str) -> list[str]:
    """The arguments with which process `pid` was started, at least one; an empty one when it has ended. Raises
    Exhausted.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read()).split("\0")
    except OSError as error:
        if isinstance(why := explained("open", error), Exhausted):  # else a VMM that lives would not be found
            raise why from None
        return [""]


def is_vmm(binary: str) -> bool:
    """Whether the program at this path is one that runs pods."""
    return hypervisors.is_program(binary) or os.path.basename(binary) == AGENT
