# SPDX-License-Identifier: Apache-2.0
"""Places a pod's VMM on the host: ids of its own, and cgroups with limits. Called by the engine.

A VMM is in the cgroup that was made for its pod (`linux.podcgroup`) where that has room for it, else below one of ours.
Where the cgroup driver is systemd, it is in a scope there (`linux.scope`). All is found again from links in the pod's
directory: `ids` (vm.slots) and `cgroup`, `cgroup.memory` and so on, with `.pod` at the end for those of a VM that was
there before its pod.
"""

import os

from stage1.linux import beneath, cgroup, mount, namespace, podcgroup, scope
from stage1.machine import Host
from stage1.pod import ids as numbers
from stage1.pod.model import Pod
from stage1.rootfs import owners
from stage1.vm import limits, slots
from stage1.vm.spec import VmSpec

MIB = 1 << 20
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from stage1.vm.host import HostPod

    Result = TypeVar("Result")


def add(vm: VmSpec, pod: Pod, *, host: Host, directory: str) -> tuple[VmSpec, str]:
    """`vm` with its ids and its cgroups, as far as `host` has some for it; and why it is not in the cgroup that was
    made for the pod, as a sentence; empty when it is, or there is none.

    Undo: `end`, unmounting below `directory`, `slots.release`. Raises NoSpace when all
    ids are taken, Unsupported when the pod's user namespace has too many, KernelError.
    """
    if host.ids is not None:
        vm = vm._replace(ids=numbers.extents(slots.claim(directory, host.ids), pod.ids))
        owners.keep(directory, pod.ids, vmm=vm.ids)
    if host.cgroup_parent:
        places, why_not = choose_cgroups(vm, pod, parent=host.cgroup_parent, has_scopes=host.has_scopes)
        return vm._replace(cgroups=_make(vm, places, directory=directory)), why_not
    return vm, ""


def add_host_pod(pod: "HostPod") -> None:
    """Write down the cgroup of a pod on the host, which its agent makes. Undo: `end`."""
    with beneath.Root(pod.run_dir) as own:
        own.link("cgroup", pod.cgroup)


def choose_cgroups(vm: VmSpec, pod: Pod, *, parent: str, has_scopes: bool = False) -> tuple[dict[str, str], str]:
    """Return the paths of the VMM's cgroups by hierarchy, and why they are not in the pod's; that is empty if they are,
    or if the pod has none. In hierarchies where the pod has none they are below `parent`. With `has_scopes` the pod's
    is a slice.
    """
    name = f"clearpod-{pod.id}"
    places = cgroup.places(parent, name)
    if not pod.cgroup_parent:
        return places, ""
    pod_places = podcgroup.find(pod.cgroup_parent)
    why_not = _lack(vm, pod, allowed=podcgroup.allowed(pod_places))
    if not pod_places:
        why_not = f"the host has no cgroup {podcgroup.path_of(pod.cgroup_parent) or '/'}"
    if why_not:
        return places, f"the virtual machine runs in a cgroup below /{parent} and not in its pod's cgroup: {why_not}"
    below = scope.inside if has_scopes else os.path.join
    return places | {kind: below(path, name) for kind, path in pod_places.items()}, ""


def _lack(vm: VmSpec, pod: Pod, *, allowed: podcgroup.Allowed) -> str:
    """The limits of the pod's cgroup that are too low for a VM, which the host's kernel would kill then; empty if all
    are sufficient.
    """
    inside_mib, cost_mib = -(-pod.limit_bytes // MIB) or vm.memory_mib, limits.cost_mib(vm)
    memory_mib, pids = allowed.memory_bytes // MIB, limits.of(vm).pids
    if 0 < memory_mib < inside_mib + cost_mib:
        return (
            f"that allows {memory_mib} MiB, and the virtual machine needs up to {cost_mib} MiB in addition to the "
            f"{inside_mib} MiB of its containers; give the RuntimeClass an overhead.podFixed.memory of {cost_mib}Mi"
        )
    if 0 < allowed.pids < pids:
        return f"that allows {allowed.pids} processes, and the virtual machine may have {pids}; raise podPidsLimit"
    return ""


def has_other_cgroups(pod: Pod, host: Host) -> bool:
    """Whether a VMM that waited for the pod belongs into others than those it is in."""
    return bool(host.cgroup_parent and pod.cgroup_parent)


def move(vm: VmSpec, pod: Pod, *, host: Host, directory: str, pids: "Sequence[int]") -> str:
    """Move a VMM that already runs, since it waited for its pod, and its helpers into the cgroups of its pod; what it
    has used until then stays accounted where it was. Returns why not, as `choose_cgroups` does.

    Undo: as of `add`. Raises KernelError.
    """
    if not has_other_cgroups(pod, host):
        return ""
    places, why_not = choose_cgroups(vm, pod, parent=host.cgroup_parent, has_scopes=host.has_scopes)
    now = set(cgroups(directory))
    new = {kind: path for kind, path in places.items() if path not in now}
    paths = _make(vm, new, directory=directory, ending=".pod")
    if scoped := _scoped(paths):
        _begin(vm, scoped, pid=pids[0])
    for path in paths:
        for pid in pids:
            cgroup.join(path, pid)
    return why_not


def entering(vm: VmSpec, start: "Callable[[], Result]") -> "Result":
    """The result of `start`, which starts what `vm` describes; if that is in a scope, the scope is created before.
    Undo: as of `add`. Raises Unavailable or WrongState if systemd does not create it, KernelError.
    """
    if not (scoped := _scoped(vm.cgroups)):
        return start()
    with scope.Keeper() as keeper:
        _begin(vm, scoped, pid=keeper.pid)
        return start()


def entering_host_pod(pod: "HostPod", start: "Callable[[], Result]") -> "Result":
    """Like `entering`; the agent enters the scope by itself, and is waited for."""
    if not scope.of(pod.cgroup):
        return start()
    with scope.Keeper() as keeper:
        scope.begin([pod.cgroup], keeper.pid)
        started = start()
        scope.see_entered(pod.cgroup)
    return started


def _scoped(paths: "Iterable[str]") -> list[str]:
    return [path for path in paths if scope.of(path)]


def _begin(vm: VmSpec, paths: list[str], *, pid: int) -> None:
    scope.begin(paths, pid)
    cgroup.make({cgroup.kind(path): path for path in paths}, limits.of(vm))


def _make(vm: VmSpec, places: dict[str, str], *, directory: str, ending: str = "") -> tuple[str, ...]:
    """Make the VM's cgroups, each recorded in the pod's directory before it is made, so that a later clean-up finds it.
    Those in a scope are made with the scope. A further VM of the pod uses the recorded ones.
    """
    known = set(cgroups(directory))
    with beneath.Root(directory) as own:
        for kind, path in places.items():
            if path not in known:
                own.link(f"cgroup{kind}{ending}", path)
    cgroup.make({kind: path for kind, path in places.items() if not scope.of(path)}, limits.of(vm))
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
    from stage1.rootfs import orphans  # a pod of rkt's has none, and waits for each import

    return orphans.cgroups_of_pod(directory)


def end(directory: str) -> None:
    """Kill what is left in the pod's cgroups, and remove them. Idempotent. Raises TimedOut, KernelError."""
    for path in cgroups(directory):
        cgroup.end(path)


def see_removed(directory: str) -> None:
    """Wait, after `end`, until systemd has removed the pod's scope, if it had one."""
    for path in cgroups(directory):
        scope.see_removed(path)
