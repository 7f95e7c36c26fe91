# SPDX-License-Identifier: Apache-2.0
"""What a pod writes to on the host's disk: its scratch disk, or directory, and its journal. Called by the engine.

Nothing here knows of the network, of containers or of whether a VMM runs.
"""

from collections.abc import Callable

from stage1.errors import DiskFailed
from stage1.linux import idmap
from stage1.machine import MIB, Host
from stage1.pod.model import Pod
from stage1.rootfs import checkpoint, journal, own_initrd, scratch
from stage1.vm.host import HostPod
from stage1.vm.spec import VmSpec


def add(vm: VmSpec, pod: Pod, *, host: Host) -> None:
    """Make those of a VM. Undo: `remove`. Raises NoSpace, KernelError."""
    if vm.scratch:
        size = (pod.scratch_mib or host.scratch_mib) * MIB
        owner = idmap.outside(vm.ids, 0) if vm.ids else 0
        disk = scratch.Disk(vm.scratch, size, owner, is_lasting=vm.is_scratch_lasting, limits=pod.disk_limits)
        scratch.add(disk, vm.run_dir, template_dir=_templates(host))
        if host.allocates_scratch:
            scratch.allocate(vm.scratch)
    if pod.profile:
        journal.add(pod, vm.run_dir, state_dir=host.state_dir, ids=vm.ids)


def add_on_host(pod: HostPod, host: Host) -> None:
    """Make that of a pod on the host, which is a directory. Undo: `remove`. Raises KernelError."""
    if pod.scratch:
        scratch.add(scratch.Disk(pod.scratch), pod.run_dir, template_dir=_templates(host))


def remove(directory: str) -> list[str]:
    """Undo `add`; idempotent. A sentence for each that can't be removed now.

    What a disk that does not work keeps is no reason to keep the pod: `orphans.remove` removes it after a boot.
    """
    steps = (scratch.remove, scratch.forget_guest, own_initrd.remove, journal.remove, checkpoint.abandon)
    return list(filter(None, (_try(one, directory) for one in steps)))


def _try(remove: Callable[[str], None], directory: str) -> str:
    try:
        remove(directory)
    except DiskFailed as error:
        return f"{directory} could not be removed completely, and is removed after the next boot: {error}"
    return ""


def _templates(host: Host) -> str:
    return host.template_dir or f"{host.state_dir}/templates"
