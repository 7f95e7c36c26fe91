# SPDX-License-Identifier: Apache-2.0
"""Starts a VMM as a process of its own session and knows it again later, also from another process.

Called by the engine; `Vmm` is the seam that tests fill with an instant fake. It must not wait for the guest:
that is the link's business, and only an early death (a bad option, no memory) is noticed here.

console.log holds what the VMM and the guest's console write, and a guest may write for ever. RLIMIT_FSIZE
would hit the scratch disk and the volumes too, a pipe needs a resident reader; so whoever owns the pod calls
`trim_console` now and then, which frees all but the file's end.
"""

import errno
import os
from typing import NamedTuple, Protocol

from stage1.errors import NotFound, PodError, VmFailed
from stage1.linux import cgroup, files, hugepages, namespace, process
from stage1.linux.host import which
from stage1.linux.libc import Guard, failure
from stage1.vm import confine, dax, early, host, jail, kvmtool, qemu
from stage1.vm.spec import VmSpec

AGENT = "agent"
"""The program of pods on the host, in the directory of the guest's files."""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONSOLE_KEEP_BYTES = 1 << 20
_DEATH_S = 10.0
_USAGE_LINES = 100
"""What kvmtool says about a wrong option stands above all its options."""


class VmProcess(NamedTuple):
    """A VMM: its pid, when it started (clock ticks since boot), and the file with its console."""

    pid: int
    start_time: int
    console: str

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
            text = files.tail(self.console, lines)
        except PodError:
            return ""
        return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)

    def trim_console(self) -> None:
        """Give back the space of all but the console's end; its length stays. Fine while the VMM writes."""
        try:
            files.forget_head(self.console, CONSOLE_KEEP_BYTES)
        except FileNotFoundError:
            return

    def to_json(self) -> dict[str, int | str]:
        """For vm.json, so that another process can adopt the VMM."""
        return {"pid": self.pid, "start_time": self.start_time, "console": self.console}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "VmProcess":
        """What `to_json` gave, other keys ignored. Raises VmFailed when the record is damaged."""
        pid, started, console = (record.get(key) for key in ("pid", "start_time", "console"))
        if not (isinstance(pid, int) and isinstance(started, int) and isinstance(console, str)):
            raise VmFailed(f"the record of a VMM is damaged: {str(record)[:200]}")
        return cls(pid, started, console)


class Vmm(Protocol):
    """Whatever can start a VM."""

    def start(self, vm: VmSpec) -> VmProcess:
        """Start it and return at once; the guest boots meanwhile. Raises VmFailed, BadRequest."""
        ...


class ProcessVmm:
    """The real one: QEMU or kvmtool, told apart by the name of the binary, or the agent for a pod on the host."""

    def __init__(self, early_s: float = 0.08, *, ends_with_us: bool = False, huge_pages: bool = False) -> None:
        """A QEMU that ends within `early_s` makes `start` fail; the guest boots in that time. See `early.ends`.

        With `ends_with_us` it is killed when this process ends, however that happens. Without `huge_pages` the
        guest's memory has none, whatever the host does for others.
        """
        self._early_s, self._ends_with_us, self._huge_pages = early_s, ends_with_us, huge_pages
        self._confinement: confine.Confinement | None = None

    @property
    def confinement(self) -> confine.Confinement:
        """How VMMs are confined on this host; found out on first use."""
        if self._confinement is None:
            self._confinement = confine.find()
        return self._confinement

    def start(self, vm: VmSpec) -> VmProcess:
        """Start it: own session, no standard input, output appended to run_dir/console.log (mode 0600)."""
        driver = host if vm.host else kvmtool if is_kvmtool(vm.binary) else qemu
        argv, env = driver.argv(vm), driver.environment(vm)
        _check_binary(vm.binary)
        confined = [] if vm.host else [*self._with_us(), *confine.command(self.confinement, vm)]
        has_shim = driver is kvmtool and vm.dax is not None
        if has_shim and not self._huge_pages:
            env |= dax.small_pages(vm.memory_mib)
        console = f"{vm.run_dir}/console.log"
        with Guard("open", console):
            log = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

        def spawn() -> int:
            with hugepages.Starting(huge_pages=self._huge_pages or has_shim or vm.host is not None):
                return process.spawn([*confined, *argv], stdout=log, stderr=log, env=env)

        try:
            pid = self._start(vm, spawn)
        except PodError as error:
            raise VmFailed(f"the VMM can't be started: {error}") from error
        finally:
            os.close(log)
        if vm.host is None:
            _place(pid, vm)
        return _survive_start(pid, vm, console=console, early_s=0 if vm.host else self._early_s)

    def _with_us(self) -> list[str]:
        """setpriv and nothing else, since it must be there all the same where privileges can't be given up."""
        return [which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--"] if self._ends_with_us else []

    def _start(self, vm: VmSpec, spawn: "Callable[[], int]") -> int:
        if vm.host is None:
            netns = vm.netns or (namespace.OWN_NET if vm.nics else "")
            where = jail.Jail(vm.run_dir, confine.places(self.confinement, vm), netns)
            return jail.start(where, spawn, ends_with_us=self._ends_with_us)
        if not vm.netns:
            return spawn()
        with namespace.inside_net(vm.netns):
            return spawn()


def _place(pid: int, vm: VmSpec) -> None:
    """Where the host's accounts and its OOM killer see a VMM, and not a part of us, with limits of its own.

    It starts meanwhile, and runs without all that as well: `clearpod check` says what is missing.
    """
    try:
        process.set_limits(pid)  # first, since QEMU looks at them when it starts
        process.set_oom_score(pid, 0)
        if vm.cgroup:
            cgroup.join(vm.cgroup, pid)
    except PodError:
        return


def find_unrecorded(directory: str) -> VmProcess | None:
    """The VMM that has files below `directory` on its command line; None when there is none.

    That is how to find one whose starter was killed before it could write down who it is.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        words = command_line(name)
        if is_vmm(words[0]) and any(f"{directory}/" in f"{word}/" for word in words[1:]):
            try:
                return VmProcess(int(name), process.start_time(int(name)), f"{directory}/console.log")
            except NotFound:
                continue
    return None


def command_line(pid: str) -> list[str]:
    """The words with which process `pid` was started, at least one; an empty one when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read()).split("\0")
    except OSError:
        return [""]


def is_vmm(binary: str) -> bool:
    """Whether the program at this path is one that runs pods."""
    name = os.path.basename(binary)
    return is_kvmtool(binary) or name.startswith("qemu-system-") or name == AGENT


def is_kvmtool(binary: str) -> bool:
    """Whether the VMM at this path is kvmtool; what has another name is taken for QEMU."""
    return os.path.basename(binary) in ("lkvm", "kvmtool", "vm")


def _check_binary(path: str) -> None:
    """Raise what starting it would raise: the error of a wrapper says less."""
    if not os.access(path, os.X_OK):
        number = errno.EACCES if os.path.exists(path) else errno.ENOENT
        raise VmFailed(f"the VMM can't be started: {failure('exec', number, path)}")


def _survive_start(pid: int, spec: VmSpec, *, console: str, early_s: float) -> VmProcess:
    # The process is our child and not reaped yet, so the pid is still its own.
    with process.PidHandle(pid, os.pidfd_open(pid)) as handle:
        try:
            started = process.start_time(pid)
        except NotFound:
            started = 0
        vm = VmProcess(pid, started, console)
        if early.ends(handle, early_s=early_s, on_kvmtool=is_kvmtool(spec.binary)):
            raise early.failure(spec.binary, handle.exit_code, said=vm.console_tail(_USAGE_LINES))
    return vm
