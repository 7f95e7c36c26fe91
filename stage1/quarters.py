# SPDX-License-Identifier: Apache-2.0
"""What a pod's VMM has on the host beside its files: ids of its own, and cgroups with limits. Called by the engine.

All of it is found again from links in the pod's directory: `ids` (vm.slots) and `cgroup`, `cgroup.memory` and so on.
"""

from stage1.linux import beneath, cgroup, mount, namespace
from stage1.machine import Host
from stage1.pod import ids as numbers
from stage1.pod.model import Pod
from stage1.rootfs import owners, remains
from stage1.vm import limits, slots
from stage1.vm.spec import VmSpec


def add(vm: VmSpec, pod: Pod, *, host: Host, directory: str) -> VmSpec:
    """`vm` with its ids and its cgroups, as far as `host` has some for it.

    Undo: `cgroup.end` for each of `cgroups`, unmounting below `directory`, `slots.release`. Raises NoSpace when all
    ids are taken, Unsupported when the pod's user namespace has too many, KernelError.
    """
    if vm.host:
        with beneath.Root(directory) as own:
            own.link("cgroup", vm.cgroup)
        return vm
    if host.ids is not None:
        vm = vm._replace(ids=numbers.extents(slots.claim(directory, host.ids), pod.ids))
        owners.keep(directory, pod.ids, vmm=vm.ids)
    if host.cgroup_parent:
        vm = vm._replace(cgroups=_cgroups(vm, host.cgroup_parent, directory=directory, name=f"clearpod-{pod.id}"))
    return vm


def _cgroups(vm: VmSpec, parent: str, *, directory: str, name: str) -> tuple[str, ...]:
    """They are written down before they are made, so that whoever comes later finds what is there."""
    places = cgroup.places(parent, name)
    with beneath.Root(directory) as own:
        for kind, path in places.items():
            own.link(f"cgroup{kind}", path)
    cgroup.make(places, limits.of(vm))
    return tuple(places.values())


def grow(directory: str, pid: int, *, memory_bytes: int) -> None:
    """Count what the guest may put into its volumes that are memory of the host: it is the VMM that is charged for it.

    `memory_bytes` is its limit without any. Raises KernelError, FileNotFoundError when the VMM has ended.
    """
    places = cgroups(directory)
    if places and memory_bytes:
        below = f"{directory}/share/volumes/"
        in_volumes = namespace.in_mounts_of(pid, lambda: mount.memory_bytes(below))
        cgroup.raise_memory(places, memory_bytes + in_volumes)


def cgroups(directory: str) -> list[str]:
    """The cgroups of the pod, whether they exist or not."""
    return remains.cgroups_of_pod(directory)
