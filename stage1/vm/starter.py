# SPDX-License-Identifier: Apache-2.0
"""Starts a VMM as a process of its own session, in its jail (`jail.py`, `launch.py`). Called by the engine, for the
daemon and `clearpod run`; rkt's VMMs are started by its launcher (`launch_spec.py`).

It must not wait for the guest: that is the link's business, and only an early death (a bad option, no memory) is
noticed here.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from stage1.errors import DiskFailed, Exhausted, NoSpace, NotFound, PodError, VmFailed
from stage1.linux import namespace, process
from stage1.linux.libc import Guard, failure
from stage1.pod import ids as numbers
from stage1.pod.model import IdMap
from stage1.vm import dax, host, jail, launch, monitor, sigsys, startup
from stage1.vm.host import HostPod
from stage1.vm.jail import Launch
from stage1.vm.spec import CONSOLE_FD, LISTENER_FD, MONITOR_FD, QMP, QMP_FD, VOLUMES, VOLUMES_FD, Hypervisor, VmSpec
from stage1.vm.template import Template
from stage1.vm.vmm import VmProcess

_USAGE_LINES = 100
"""How many lines of usage a VMM may print after its message about a wrong option."""
_DEATH_S = 10.0
_ANY_IDS = numbers.extents(0x70000000, IdMap())


class ProcessVmm:
    """The real one: starts the hypervisor that the VM names, or the agent for a pod on the host."""

    def __init__(self, watch_s: float = 0.08, *, ends_with_us: bool = False, huge_pages: bool = False) -> None:
        """A VMM that ends within `watch_s` makes `start` fail; the guest boots in that time. See `startup.py`.

        With `ends_with_us` it is killed when this process ends, however that happens. Without `huge_pages` the
        guest's memory has none, whatever the host does for others.
        """
        self._watch_s, self._ends_with_us, self._huge_pages = watch_s, ends_with_us, huge_pages

    def start(self, vm: VmSpec | HostPod) -> VmProcess:
        """Start it: own session, no standard input, output appended to run_dir/console.log (mode 0600)."""
        _check_binary(vm.agent if isinstance(vm, HostPod) else vm.binary)
        console = f"{vm.run_dir}/console.log"
        log = _append(console)
        try:
            if isinstance(vm, HostPod):
                return _on_host(vm, log, console=console)
            return self._in_jail(vm._replace(ids=vm.ids or _ANY_IDS), log, console=console)
        except (VmFailed, NoSpace, DiskFailed, Exhausted):
            raise
        except PodError as error:
            raise VmFailed(f"the VMM can't be started: {error}") from error
        finally:
            os.close(log)

    def _in_jail(self, vm: VmSpec, log: int, *, console: str) -> VmProcess:
        _check_files(vm)
        with _listening(_sockets(vm)) as listeners:
            output = _append(vm.own.serial) if vm.own else os.dup(log)
            try:
                console_fd = {CONSOLE_FD: log} if vm.console_attached and vm.hypervisor.opens_console else {}
                fixed = {1: output, 2: log, **console_fd, **listeners}
                if vm.template:
                    return self._start_with(vm.template, vm, fixed=fixed, console=console)
                return self._survive_start(self._launch(vm, fixed), vm, console=console)
            finally:
                os.close(output)

    def _start_with(self, template: Template, vm: VmSpec, *, fixed: dict[int, int], console: str) -> VmProcess:
        if template.is_made:
            fixed = {**fixed, MONITOR_FD: template.monitor}
            return self._survive_start(self._launch(vm, fixed), vm, console=console)
        with monitor.Ends(template) as ends:
            pid = self._launch(vm, {**fixed, **ends.theirs})
            with process.hold(pid) as handle:
                started = _process(pid, console)
                try:
                    ends.load()
                except BaseException as error:
                    handle.kill()
                    handle.wait(_DEATH_S)
                    if not isinstance(error, VmFailed):
                        raise
                    failed = _failure(vm.hypervisor, vm.binary, vmm=started, code=handle.exit_code)
                    raise VmFailed(f"{error}: {failed}") from None
        return started

    def _survive_start(self, pid: int, vm: VmSpec, *, console: str) -> VmProcess:
        # The process is our child and not reaped yet, so the pid is still its own.
        with process.hold(pid) as handle:
            started = _process(pid, console)
            # One that boots an image's kernel may have ended already, since that had nothing more to do.
            if not vm.own and self._has_ended(vm, handle):
                raise _failure(vm.hypervisor, vm.binary, vmm=started, code=handle.exit_code)
        return started

    def _has_ended(self, vm: VmSpec, handle: process.PidHandle) -> bool:
        if vm.is_resumed:
            return startup.ends_before_greeting(handle, f"{vm.run_dir}/{QMP}")
        return vm.hypervisor.has_ended(handle, self._watch_s)

    def _launch(self, vm: VmSpec, descriptors: dict[int, int]) -> int:
        handed = [number for number in descriptors if number > 2]
        description = jail.describe(vm, self._what(vm, handed))

        def go() -> int:
            return launch.launch(vm.jailer, description, descriptors=descriptors, name=vm.run_dir)

        # Its parent is the thread that starts it, and it is told of the end of that.
        return namespace.in_thread(go, then=_wait) if self._ends_with_us else go()

    def _what(self, vm: VmSpec, handed: list[int]) -> Launch:
        env = vm.hypervisor.environment(vm)
        if vm.dax and not self._huge_pages:
            env |= dax.small_pages(vm.memory_mib, os.stat(vm.kernel).st_size)
        return Launch(
            vm.hypervisor.argv(vm),
            env,
            handed,
            filter=vm.filter,
            dies_with_us=self._ends_with_us,
            small_pages=not self._huge_pages and not vm.dax,
        )


def _append(path: str) -> int:
    with Guard("open", path):
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _wait(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    with process.PidHandle(pid, fd) as handle:
        handle.see_end()


def _on_host(pod: HostPod, log: int, *, console: str) -> VmProcess:
    def spawn() -> int:
        return process.spawn(host.argv(pod), stdout=log, stderr=log, env=host.environment())

    if pod.netns:
        with namespace.inside_net(pod.netns):
            pid = spawn()
    else:
        pid = spawn()
    with process.hold(pid) as handle:
        started = _process(pid, console)
        if handle.wait(0):
            raise _failure(Hypervisor(), pod.agent, vmm=started, code=handle.exit_code)
    return started


def _sockets(vm: VmSpec) -> dict[int, tuple[str, bool]]:
    """The sockets of the VMM, as `Hypervisor.listener` has them, by the numbers of its descriptors."""
    place = vm.hypervisor.listener(vm)
    monitor = {QMP_FD: (f"{vm.run_dir}/{QMP}", False)} if vm.window_bytes else {}
    volumes = {VOLUMES_FD: (f"{vm.run_dir}/{VOLUMES}", False)} if vm.has_volumes_port and not vm.own else {}
    return monitor | volumes | ({LISTENER_FD: place} if place else {})


@contextmanager
def _listening(places: dict[int, tuple[str, bool]]) -> Iterator[dict[int, int]]:
    """Sockets there, under the same numbers. If the block raises, they are gone afterwards."""
    made: dict[int, int] = {}
    try:
        for number, place in places.items():
            made[number] = _listen(*place)
        yield made
    except BaseException:
        for number in made:
            os.unlink(places[number][0])
        raise
    finally:
        for fd in made.values():
            os.close(fd)


def _listen(path: str, is_packets: bool) -> int:
    """A socket that listens at `path`, mode 0600, which only root can replace. The caller closes it."""
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
    """Give the VMM's user, who is unprivileged on the host, the files that it writes, and raise VmFailed for one that
    it can't read.
    """
    owner = vm.ids[0].outside
    if vm.scratch:
        with Guard("chown", vm.scratch):
            os.chown(vm.scratch, owner, owner)
    images = vm.dax.images if vm.dax else ()
    # What an image brings has its owners mapped for the VMM, and needs no such right.
    booted = [] if vm.own else [vm.kernel, vm.initramfs, vm.system_image]
    files = [*booted, *(image.path for image in images)]
    if vm.template and vm.template.is_made:
        with Guard("chown", vm.template.ram):
            os.chown(vm.template.ram, owner, owner)
    elif vm.template:
        files.append(vm.template.ram)
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


def _process(pid: int, console: str) -> VmProcess:
    try:
        return VmProcess(pid, process.start_time(pid), console)
    except NotFound:
        return VmProcess(pid, 0, console)


def _failure(hypervisor: Hypervisor, binary: str, *, vmm: VmProcess, code: int | None) -> VmFailed:
    filtered = sigsys.explain(vmm.pid, vmm.start_time, code=code)
    output = vmm.console_tail(_USAGE_LINES)
    return startup.failure(hypervisor, binary, code=code, output=output, filtered=filtered)
