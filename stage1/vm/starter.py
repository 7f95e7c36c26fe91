# SPDX-License-Identifier: Apache-2.0
"""Starts a VMM as a process of its own session, in its jail and cgroup. Called by the engine, for the daemon and
`clearpod run`; rkt's VMMs are started by its launcher (`order.py`).

It must not wait for the guest: that is the link's business, and only an early death (a bad option, no memory) is
noticed here.
"""

import errno
import os

from stage1.errors import NotFound, PodError, VmFailed
from stage1.linux import cgroup, hugepages, namespace, process
from stage1.linux.host import which
from stage1.linux.libc import Guard, failure
from stage1.vm import confine, dax, early, host, jail, kvmtool, qemu, sigsys
from stage1.vm.spec import VmSpec
from stage1.vm.vmm import VmProcess, is_kvmtool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_USAGE_LINES = 100
"""What kvmtool says about a wrong option stands above all its options."""


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
            filtered = sigsys.explain(pid, started, code=handle.exit_code)
            raise early.failure(spec.binary, handle.exit_code, said=vm.console_tail(_USAGE_LINES), filtered=filtered)
    return vm
