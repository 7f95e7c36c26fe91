# SPDX-License-Identifier: Apache-2.0
"""Prewarmed pods: what is made before anybody asks for them, and what is left to do when one is claimed.

Called by the daemon's warm pool, in worker threads. Such a pod has its final id from the beginning, so that directory,
netns, disk and records have their names and `engine.clean_up` undoes everything, whenever its maker dies.
"""

import os
from collections.abc import Callable

from stage1 import engine, machine, placement
from stage1.engine import Host, Prepared
from stage1.errors import VmFailed
from stage1.net import attach, pool_slot, reservation
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork
from stage1.rootfs import identity

MAC = pool_slot.MAC
"""Of the device that a waiting guest has."""


def prepare(pod: Pod, host: Host, *, devices: int = 1) -> Prepared:
    """Like `engine.prepare`, but no plugin is called: the pod has a network namespace with that many devices."""

    def reserve(pod: Pod, directory: str) -> PodNetwork | None:
        return pool_slot.prepare(pod.id, directory, settings=host.network, devices=devices) if host.network else None

    return engine.prepare(pod, host, attach=reserve)


def reserve(pod: Pod, host: Host) -> bool:
    """Call the plugin that needs nothing of the pod that will claim the slot, which has the id of `pod`; whether there
    is one. Undo: `engine.clean_up`. Raises NetworkFailed, KernelError; the slot can be claimed all the same.
    """
    return host.network is not None and reservation.make(pod, engine.pod_directory(host, pod.id), settings=host.network)


def claim(pod: Pod, host: Host, *, wake: Callable[[], object] | None = None) -> PodNetwork | None:
    """Give the VM that was prepared under the pod's id the pod's network; `record` is to follow. `wake` is called when
    the plugins have ended: the guest gets its configuration in a moment.

    Undo: `engine.clean_up`. Raises VmFailed when the netns was taken away from the VM, Unsupported when the plugins
    make more than a running VM can have, and what `attach.attach` raises.
    """
    if not host.network:
        return None
    if not _is_there(netns_path(pod.id)):
        raise VmFailed(f"the network namespace {netns_path(pod.id)} of a prewarmed VM is gone; create the pod again")

    def join(is_held: bool) -> PodNetwork:
        if wake:
            wake()
        return pool_slot.join(is_held, is_free=pod.allow_spoofing)

    return attach.attach(pod, engine.pod_directory(host, pod.id), settings=host.network, join=join)


def enter_cgroups(pod: Pod, host: Host) -> str:
    """Put the VMM into its pod's cgroups, as `placement.move`. Raises KernelError, VmFailed when there is no VMM."""
    directory = engine.pod_directory(host, pod.id)
    vm = engine.recorded_vm(directory)
    if vm is None:
        raise VmFailed(f"the pool slot {directory} has no record of its prewarmed VM; create the pod again")
    spec = machine.vm_spec(pod, host, directory=directory)
    return placement.move(spec, pod, host=host, directory=directory, pids=(vm.pid,))


def record(pod: Pod, host: Host, *, network: PodNetwork | None) -> None:
    """Write the files that must exist before the pod is ready, while its guest is configured. Raises NoSpace,
    KernelError.
    """
    directory = engine.pod_directory(host, pod.id)
    if network:
        attach.note(directory, network)
    identity.write(pod, directory, network=network)


def _is_there(path: str) -> bool:
    """Namespaces have a file system of their own, which is quicker to see than to read all mounts."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False
