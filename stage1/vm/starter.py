# SPDX-License-Identifier: Apache-2.0
"""Starts a VMM as a process of its own session, in its jail (`jail.py`, `launch.py`). Called by the engine, for the
daemon and `clearpod run`; rkt's VMMs are started by its launcher (`order.py`).

It must not wait for the guest: that is the link's business, and only an early death (a bad option, no memory) is
noticed here.
"""

import errno
import os
import stat

from stage1.errors import DiskFailed, Exhausted, NoSpace, NotFound, PodError, VmFailed
from stage1.linux import namespace, process
from stage1.linux.idmap import Extent
from stage1.linux.libc import Guard, failure
from stage1.vm import dax, early, host, jail, kvmtool, launch, qemu, sigsys
from stage1.vm.jail import Launch
from stage1.vm.spec import CONSOLE_FD, LISTENER_FD, SerialLink, VmSpec
from stage1.vm.vmm import VmProcess, is_kvmtool

_USAGE_LINES = 100
"""What kvmtool says about a wrong option stands above all its options."""
_ANY_IDS = (Extent(0, 0x70000000, 65536),)


class ProcessVmm:
    """The real one: QEMU or kvmtool, told apart by the name of the binary, or the agent for a pod on the host."""

    def __init__(self, early_s: float = 0.08, *, ends_with_us: bool = False, huge_pages: bool = False) -> None:
        """A QEMU that ends within `early_s` makes `start` fail; the guest boots in that time. See `early.ends`.

        With `ends_with_us` it is killed when this process ends, however that happens. Without `huge_pages` the
        guest's memory has none, whatever the host does for others.
        """
        self._early_s, self._ends_with_us, self._huge_pages = early_s, ends_with_us, huge_pages

    def start(self, vm: VmSpec) -> VmProcess:
        """Start it: own session, no standard input, output appended to run_dir/console.log (mode 0600)."""
        _check_binary(vm.binary)
        console = f"{vm.run_dir}/console.log"
        with Guard("open", console):
            log = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if vm.host:
                return _survive_start(_on_host(vm, log), vm, console=console, early_s=0)
            vm = vm._replace(ids=vm.ids or _ANY_IDS, cgroups=_cgroups(vm))
            return self._in_jail(vm, log, console=console)
        except (VmFailed, NoSpace, DiskFailed, Exhausted):
            raise
        except PodError as error:
            raise VmFailed(f"the VMM can't be started: {error}") from error
        finally:
            os.close(log)

    def _in_jail(self, vm: VmSpec, log: int, *, console: str) -> VmProcess:
        _check_files(vm)
        path = listener_path(vm)
        listener = _listen(path, is_packets=is_kvmtool(vm.binary)) if path else -1
        try:
            console_fd = {CONSOLE_FD: log} if vm.attended and not is_kvmtool(vm.binary) else {}
            pid = self._launch(vm, {1: log, 2: log, **console_fd, **({LISTENER_FD: listener} if path else {})})
            return _survive_start(pid, vm, console=console, early_s=self._early_s)
        except BaseException:
            if path:
                os.unlink(path)
            raise
        finally:
            if path:
                os.close(listener)

    def _launch(self, vm: VmSpec, descriptors: dict[int, int]) -> int:
        handed = [number for number in descriptors if number > 2]
        description = jail.describe(vm, self._what(vm, handed))

        def go() -> int:
            return launch.launch(vm.jailer, description, descriptors=descriptors, name=vm.run_dir)

        # Its parent is the thread that starts it, and it is told of the end of that.
        return namespace.in_thread(go, then=_wait) if self._ends_with_us else go()

    def _what(self, vm: VmSpec, handed: list[int]) -> Launch:
        driver = kvmtool if is_kvmtool(vm.binary) else qemu
        env = driver.environment(vm)
        has_shim = driver is kvmtool and vm.dax is not None
        if has_shim and not self._huge_pages:
            env |= dax.small_pages(vm.memory_mib)
        return Launch(
            driver.argv(vm),
            env,
            handed,
            filter=vm.filter,
            dies_with_us=self._ends_with_us,
            small_pages=not self._huge_pages and not has_shim,
        )


def _wait(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    with process.PidHandle(pid, fd) as handle:
        handle.see_end()


def _on_host(vm: VmSpec, log: int) -> int:
    def spawn() -> int:
        return process.spawn(host.argv(vm), stdout=log, stderr=log, env=host.environment(vm))

    if not vm.netns:
        return spawn()
    with namespace.inside_net(vm.netns):
        return spawn()


def _cgroups(vm: VmSpec) -> tuple[str, ...]:
    """All that it is in: they must exist."""
    if not vm.cgroup or vm.cgroup in vm.cgroups:
        return vm.cgroups
    with Guard("mkdir", vm.cgroup):
        os.makedirs(vm.cgroup, exist_ok=True)
    return (*vm.cgroups, vm.cgroup)


def listener_path(vm: VmSpec) -> str:
    """Where the VMM is reached: QEMU by the agent's link, kvmtool by its window; empty when it has none of these."""
    if is_kvmtool(vm.binary):
        return vm.dax.socket if vm.dax and vm.dax.window_bytes else ""
    return vm.link.socket if isinstance(vm.link, SerialLink) else ""


def _listen(path: str, *, is_packets: bool) -> int:
    """A socket that listens at `path`, mode 0600, which only root can replace. The caller closes it."""
    import socket  # it takes as long as all that a VM needs to start

    kind = socket.SOCK_SEQPACKET if is_packets else socket.SOCK_STREAM
    with Guard("listen at", path), socket.socket(socket.AF_UNIX, kind) as made:
        os.fchmod(made.fileno(), 0o600)  # before it has a name: it never has a wider mode
        try:
            made.bind(path)
        except OSError as error:
            if "too long" not in str(error):
                raise
            raise VmFailed(
                f"the path of the socket {path} is too long for a unix socket: use a shorter run_dir"
            ) from None
        made.listen(4)
        return made.detach()


def _check_files(vm: VmSpec) -> None:
    """Its user is nobody on the host. What it changes is given to it; what it reads must be readable by everybody."""
    owner = vm.ids[0].outside
    if vm.scratch:
        with Guard("chown", vm.scratch):
            os.chown(vm.scratch, owner, owner)
    images = vm.dax.images if vm.dax else ()
    files = [vm.kernel, vm.initramfs, vm.system_image, *(image.path for image in images)]
    for path in files:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue  # the VMM says so
        if not mode & stat.S_IROTH:
            raise VmFailed(f"{path} can't be read by the user that the VMM runs as: chmod o+r {path}")


def _check_binary(path: str) -> None:
    """Raise what starting it would raise: the error of a wrapper says less."""
    if not os.access(path, os.X_OK):
        number = errno.EACCES if os.path.exists(path) else errno.ENOENT
        raise VmFailed(f"the VMM can't be started: {failure('exec', number, path)}")


def _survive_start(pid: int, spec: VmSpec, *, console: str, early_s: float) -> VmProcess:
    # The process is our child and not reaped yet, so the pid is still its own.
    with process.hold(pid) as handle:
        try:
            started = process.start_time(pid)
        except NotFound:
            started = 0
        vm = VmProcess(pid, started, console)
        if early.ends(handle, early_s=early_s, on_kvmtool=is_kvmtool(spec.binary)):
            filtered = sigsys.explain(pid, started, code=handle.exit_code)
            raise early.failure(spec.binary, handle.exit_code, said=vm.console_tail(_USAGE_LINES), filtered=filtered)
    return vm
