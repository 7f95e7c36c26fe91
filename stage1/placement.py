# SPDX-License-Identifier: Apache-2.0
"""Places a pod's VMM on the host: ids of its own, and cgroups with limits. Called by the engine.

A VMM is in the cgroup that was made for its pod (`linux.podcgroup`) where that has room for it, else below one of ours.
Where the cgroup driver is systemd, it is in a scope there (`linux.scope`). All is found again from links in the pod's
directory: `ids` (vm.slots) and `cgroup`, `cgroup.memory` and so on, with `.pod` at the end for those of a VM that was
there before its pod.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from stage1.errors import KernelError, Unavailable, WrongState
from stage1.linux import beneath, cgroup, mount, namespace, podcgroup, scope
from stage1.machine import Host
from stage1.pod import ids as numbers
from stage1.pod.model import Pod
from stage1.rootfs import orphans, owners
from stage1.vm import limits, slots
from stage1.vm.host import HostPod
from stage1.vm.spec import VmSpec

Result = TypeVar("Result")


MIB = 1 << 20
PAGE = 4096
MARK_BYTES = 7 * PAGE
"""What a limit that is raised for a VM has beyond whole MiB. The kubelet reads it from the pod's cgroup, and hands it
back as the pod's limit when only others change: it is known by this.
"""


def add(vm: VmSpec, pod: Pod, *, host: Host, directory: str) -> tuple[VmSpec, str]:
    """`vm` with its ids and its cgroups, as far as `host` has some for it; and a sentence that says that the limit of
    the pod's cgroup was raised for it, or why it is not in there; empty when neither is so.

    Undo: `end`, unmounting below `directory`, `slots.release`. Raises NoSpace when all
    ids are taken, Unsupported when the pod's user namespace has too many, KernelError.
    """
    if host.ids is not None:
        vm = vm._replace(ids=numbers.extents(slots.claim(directory, host.ids), pod.ids))
        owners.keep(directory, pod.ids, vmm=vm.ids)
    if host.cgroup_parent:
        places, note = _with_space(vm, pod, host=host)
        return vm._replace(cgroups=_make(vm, places, directory=directory)), note
    return vm, ""


def add_host_pod(pod: HostPod) -> None:
    """Write down the cgroup of a pod on the host, which its agent makes. Undo: `end`."""
    with beneath.Root(pod.run_dir) as own:
        own.link("cgroup", pod.cgroup)


class Choice(NamedTuple):
    """Where a VMM belongs: the paths of its cgroups by hierarchy. `note` is a sentence about what its pod's cgroup
    lacks; `raised` are the paths of that cgroup that first have to allow `memory_bytes`.
    """

    places: dict[str, str]
    note: str = ""
    raised: tuple[str, ...] = ()
    memory_bytes: int = 0


def choose_cgroups(vm: VmSpec, pod: Pod, *, parent: str, has_scopes: bool = False, may_raise: bool = True) -> Choice:
    """Choose the VMM's cgroups: in the pod's own, with `has_scopes` a slice, in all hierarchies that have it and in
    which it has room; else below `parent`. Its limit of memory is chosen to be raised if `may_raise`.
    """
    name = f"clearpod-{pod.id}"
    places = cgroup.places(parent, name)
    if not pod.cgroup_parent:
        return Choice(places)
    in_pod = podcgroup.find(pod.cgroup_parent)
    if not in_pod:
        missing = podcgroup.path_of(pod.cgroup_parent) or "/"
        return Choice(places, _elsewhere(parent, f"the host has no cgroup {missing}"))
    lacks, note, raised = dict[str, str](), "", tuple[str, ...]()
    inside_mib, cost_mib = -(-pod.limit_bytes // MIB) or vm.memory_mib, limits.cost_mib(vm)
    memory_bytes = (inside_mib + cost_mib) * MIB
    allowed, above = podcgroup.allowed(in_pod), podcgroup.allowed_above(in_pod)
    advice = f"give the RuntimeClass an overhead.podFixed.memory of {cost_mib}Mi"
    if 0 < allowed.memory_bytes < memory_bytes:
        needs = (
            f"allows {allowed.memory_bytes // MIB} MiB, and the virtual machine needs up to {cost_mib} MiB in addition"
            f" to the {inside_mib} MiB of its containers"
        )
        if 0 < above < memory_bytes:
            lacks["memory"] = f"that {needs}, and the cgroup above it allows {above // MIB} MiB"
        elif not may_raise or not _is_sum(allowed.memory_bytes, pod):
            lacks["memory"] = f"that {needs}"
        else:
            raised = tuple(path for path in in_pod.values() if podcgroup.limits_memory(path))
            note = (
                f"the limit of the pod's cgroup was raised from {allowed.memory_bytes // MIB} to"
                f" {inside_mib + cost_mib} MiB since the virtual machine is in it;"
                f" so that the scheduler counts it, {advice}"
            )
    if 0 < allowed.pids < (pids := limits.of(vm).pids):
        lacks["pids"] = f"that allows {allowed.pids} processes, and the virtual machine may have {pids}"
    if lacks:
        todo = advice if "memory" in lacks else "raise podPidsLimit"
        note = _elsewhere(parent, f"{'; '.join(lacks.values())}; {todo}")
    if lacks and has_scopes:
        return Choice(places, note)  # systemd makes a scope in all hierarchies
    fitting = {kind: path for kind, path in in_pod.items() if not lacks.keys() & podcgroup.controllers(kind, path)}
    below = scope.inside if has_scopes else os.path.join
    inside = {kind: below(path, name) for kind, path in fitting.items()}
    return Choice(places | inside, note, () if "memory" in lacks else raised, memory_bytes + MARK_BYTES)


def is_raised(memory_bytes: int) -> bool:
    """Whether a limit of a pod's cgroup is one that was raised for its VM."""
    return memory_bytes > 0 and memory_bytes % MIB == MARK_BYTES


def _elsewhere(parent: str, why: str) -> str:
    return f"the virtual machine runs in a cgroup below /{parent} and not in its pod's cgroup: {why}"


def _is_sum(allowed_bytes: int, pod: Pod) -> bool:
    """Whether the cgroup's limit is what the kubelet makes of the pod's, which is no bound that somebody has set for
    the virtual machine. The kernel rounds to pages.
    """
    return bool(pod.limit_bytes) and allowed_bytes // PAGE == (pod.limit_bytes + pod.overhead_bytes) // PAGE


def _with_space(vm: VmSpec, pod: Pod, *, host: Host) -> tuple[dict[str, str], str]:
    """The places and the note of `choose_cgroups`, the pod's cgroup having room for the VM. There is no undo: it is
    the client's, and removed with the pod.
    """
    chosen = choose_cgroups(vm, pod, parent=host.cgroup_parent, has_scopes=host.has_scopes)
    try:
        _raise(chosen, pod, host=host)
    except (KernelError, Unavailable, WrongState) as error:
        chosen = choose_cgroups(vm, pod, parent=host.cgroup_parent, has_scopes=host.has_scopes, may_raise=False)
        return chosen.places, f"{chosen.note}; its limit could not be raised: {error}"
    return chosen.places, chosen.note


def _raise(chosen: Choice, pod: Pod, *, host: Host) -> None:
    if chosen.raised and host.has_scopes:
        scope.limit_slice(pod.cgroup_parent, chosen.memory_bytes)
    if chosen.raised:
        cgroup.raise_memory(chosen.raised, chosen.memory_bytes)


def keep_space(vm: VmSpec, pod: Pod, *, host: Host, directory: str) -> None:
    """Add the room for the VM again after the client has given the pod's cgroup a new limit. Does nothing for a VM that
    is not in that cgroup. Raises KernelError, Unavailable, WrongState.
    """
    if not has_other_cgroups(pod, host):
        return
    chosen = choose_cgroups(vm, pod, parent=host.cgroup_parent, has_scopes=host.has_scopes)
    recorded = cgroups(directory)
    if any(path.startswith(f"{above}/") for path in recorded for above in chosen.raised):
        _raise(chosen, pod, host=host)


def has_other_cgroups(pod: Pod, host: Host) -> bool:
    """Whether a VMM that waited for the pod belongs into others than those it is in."""
    return bool(host.cgroup_parent and pod.cgroup_parent)


def move(vm: VmSpec, pod: Pod, *, host: Host, directory: str, pids: Sequence[int]) -> str:
    """Move a VMM that already runs, since it waited for its pod, and its helpers into the cgroups of its pod; what it
    has used until then stays accounted where it was. Returns a sentence as `add` does.

    Undo: as of `add`. Raises KernelError.
    """
    if not has_other_cgroups(pod, host):
        return ""
    places, note = _with_space(vm, pod, host=host)
    now = set(cgroups(directory))
    new = {kind: path for kind, path in places.items() if path not in now}
    paths = _make(vm, new, directory=directory, ending=".pod")
    if scoped := _scoped(paths):
        _begin(vm, scoped, pid=pids[0])
    for path in paths:
        for pid in pids:
            cgroup.join(path, pid)
    return note


def entering(vm: VmSpec, start: Callable[[], Result]) -> Result:
    """The result of `start`, which starts what `vm` describes; if that is in a scope, the scope is created before.
    Undo: as of `add`. Raises Unavailable or WrongState if systemd does not create it, KernelError.
    """
    if not (scoped := _scoped(vm.cgroups)):
        return start()
    with scope.Keeper() as keeper:
        _begin(vm, scoped, pid=keeper.pid)
        return start()


def entering_host_pod(pod: HostPod, start: Callable[[], Result]) -> Result:
    """Like `entering`; the agent enters the scope by itself, and is waited for."""
    if not scope.of(pod.cgroup):
        return start()
    with scope.Keeper() as keeper:
        scope.begin([pod.cgroup], keeper.pid)
        started = start()
        scope.see_entered(pod.cgroup)
    return started


def _scoped(paths: Iterable[str]) -> list[str]:
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
    return orphans.cgroups_of_pod(directory)


def end(directory: str) -> None:
    """Kill what is left in the pod's cgroups, and remove them. Idempotent. Raises TimedOut, KernelError."""
    for path in cgroups(directory):
        cgroup.end(path)


def see_removed(directory: str) -> None:
    """Wait, after `end`, until systemd has removed the pod's scope, if it had one."""
    for path in cgroups(directory):
        scope.see_removed(path)
