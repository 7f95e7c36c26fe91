# SPDX-License-Identifier: Apache-2.0
"""Makes the template that a pod would have used. Called by `gc`, last; no program itself.

rkt has no daemon, and a pod shall not wait; who calls `rkt gc` or `rkt rm` waits for a boot, once for each kind of VM.
One program makes one at a time, in the directory WORK; what a killed one left there the next one removes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from stage1 import engine
from stage1 import machine as machines
from stage1.engine import Host
from stage1.errors import PodError, TimedOut, VmFailed, WrongState
from stage1.linux import files, tsc
from stage1.linux.flock import Lock
from stage1.net.settings import Settings
from stage1.pod.model import Pod
from stage1.rkt import copies as rkt_copies
from stage1.rkt import directory, machine
from stage1.snapshot import machine as snapshots
from stage1.snapshot import save
from stage1.snapshot.machine import TemplateSpec
from stage1.snapshot.store import TemplateStore, remove_outdated
from stage1.vm.spec import Nic
from stage1.vm.starter import ProcessVmm

WORK = f"{machine.RUN}/warm"
"""A run directory of the engine's. Its name is short: there are sockets below."""
DISK_BYTES = 1024 << 20
"""All templates of a data directory. Those that were not used for the longest time go first."""
LIMIT_S = 120.0
COMPARED_S = 24 * 3600.0
"""How often a template's checksums are verified, which reads some 30 MB."""
_LOCK = f"{machine.RUN}/templates.lock"
TURN_S = 5.0
"""How long a pod's gc waits for another program that cleans up or compares, and would leave its template unmade."""


def make(pod_dir: str, top: str) -> list[str]:
    """Make it in the store at `top`, if it is missing and no other process makes it. A sentence when that failed."""
    store = TemplateStore(top)
    try:
        missing = rkt_copies.missing(pod_dir)
        files.make_dirs(machine.RUN, 0o711)
        with _turn(is_awaited=missing is not None):
            problems = _clean(store)
            if missing:
                _make(pod_dir, missing[0], devices=missing[1], store=store)
    except WrongState:
        return []  # another process is making one
    except (PodError, OSError) as error:
        return [f"no template was made, so pods boot their VMs: {error}"]
    return problems


@contextmanager
def _turn(*, is_awaited: bool) -> Iterator[None]:
    """The lock. Raises WrongState when another program has it, and keeps it."""
    lock = Lock(_LOCK, limit_s=TURN_S) if is_awaited else Lock(_LOCK, wait=False)
    try:
        lock.__enter__()
    except TimedOut as error:
        raise WrongState(str(error)) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _clean(store: TemplateStore) -> list[str]:
    """Remove what a killed process has left, and unusable templates. Returns a message about a damaged one."""
    for left in engine.directories(WORK):
        engine.clean_up(left)
    remove_outdated(store, most_bytes=DISK_BYTES)
    return store.compare(COMPARED_S)


def spec_of(pod_dir: str, pod: Pod, *, devices: int) -> tuple[TemplateSpec | None, Host]:
    """What is made for such a pod, with so many network devices, and where; None when its VM can't be a copy."""
    host = _host(pod_dir, pod, has_network=devices > 0)
    vm = machine.attached(machines.vm_spec(pod, host, directory=pod_dir))
    vm = vm._replace(nics=(Nic("", ""),) * devices)
    return snapshots.spec_of(pod, vm, scratch_bytes=pod.scratch_mib << 20), host


def _make(pod_dir: str, pod: Pod, *, devices: int, store: TemplateStore) -> None:
    """A host that can't make one is not asked again by each gc: that waits for a VM that comes to nothing."""
    spec, host = spec_of(pod_dir, pod, devices=devices)
    if not spec or os.path.isdir(f"{store.top}/{spec.name}"):
        return
    try:
        save.template(spec, host, vmm=ProcessVmm(ends_with_us=True), store=store, limit_s=LIMIT_S)
    except (VmFailed, TimedOut):
        store.mark(spec.name)
        raise


def _host(pod_dir: str, pod: Pod, *, has_network: bool) -> Host:
    tsc.use_file(f"{machine.RUN}/tsc-khz")
    own = f"{directory.data(pod_dir)}/clearpod"
    return machine.host(pod_dir, pod.hypervisor, root=directory.stored_root(pod_dir))._replace(
        run_dir=WORK,
        state_dir=own,
        scratch_mib=pod.scratch_mib,
        template_dir=f"{own}/templates",
        network=Settings("", (), f"{WORK}/networks") if has_network else None,
    )
