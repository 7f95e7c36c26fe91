# SPDX-License-Identifier: Apache-2.0
"""Templates of guests: how one is made. Which VM can be a copy of one is in `copies`, the other parts in
`vm/template*.py`.

Called by the daemon, in worker threads, and by rkt's gc. A template is made of a VM in a pod's place as a prewarmed
one, up to where its agent waits for settings: `engine.clean_up` undoes all but the files of the template, which appear
when they are whole.
"""

import os
import secrets
import socket
import time

from stage1 import copies, engine, prewarmed
from stage1.copies import TemplateSpec
from stage1.engine import Host, Prepared
from stage1.errors import PodError, TimedOut, VmFailed
from stage1.guest.direct_client import DirectClient
from stage1.guest.messages import Create, Delete, Op, Start
from stage1.guest.settings import warm_ups
from stage1.machine import MIB
from stage1.pod.model import Pod
from stage1.rootfs import scratch
from stage1.vm import template_key
from stage1.vm.monitor import Monitor
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.template import Template
from stage1.vm.template_store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stage1.vm.vmm import Vmm

_CONTAINER: tuple[Op, ...] = (Create("warm-up", "warm-up", tmpfs=True), Start("warm-up"), Delete("warm-up"))
"""The warm-up before a guest is saved: crun is loaded, finds no configuration, and is removed with its root."""


def spec_of(prepared: Prepared, host: Host) -> TemplateSpec | None:
    """None when the pod's VM can't be a copy of any. Raises BadRequest, KernelError."""
    pod, vm = prepared.pod, prepared.vm
    if not isinstance(vm, VmSpec):
        return None
    scratch_bytes = (pod.scratch_mib or host.scratch_mib) * MIB
    # An agent with apps of rkt's mounts it later, and what a guest has written to is never read.
    is_mounted = vm.scratch and not vm.console_attached and not copies.lack(pod, vm)
    return copies.spec_of(pod, vm, scratch_bytes=scratch_bytes, disk=scratch.uuid(vm.scratch) if is_mounted else "")


def remove_unused(store: Store, *, most_bytes: int) -> list[str]:
    """Remove templates that no VM can be a copy of any more, and those beyond so much of the disk; their names. None
    may be in the making.
    """
    facts = template_key.this_host()
    return store.remove_unused(lambda made_of: template_key.is_current(made_of, facts), most_bytes=most_bytes)


def make(spec: TemplateSpec, host: Host, *, vmm: "Vmm", store: Store, limit_s: float) -> Template:
    """Boot a VM by `vmm` and save it. Raises VmFailed, also when the VM is ended meanwhile, TimedOut, and what
    `engine.prepare` does; nothing is left then.
    """
    host = host if spec.vm.nics else host._replace(network=None)
    prepared = _alike(prewarmed.prepare(_nobodys(spec.pod), host, devices=len(spec.vm.nics)), spec.vm)
    try:
        same = spec_of(prepared, host)
        if same is None or same.made_of != spec.made_of:
            raise VmFailed("a template can't be made: its VM would differ from the pod's")
        template = store.begin(spec.name, spec.vm.memory_mib * MIB)
        try:
            _save(prepared, same.vm, template=template, vmm=vmm, limit_s=limit_s)
            return store.commit(spec.name, spec.made_of)
        finally:
            store.abandon(spec.name)
    finally:
        engine.clean_up(prepared.directory)


def _alike(prepared: Prepared, vm: VmSpec) -> Prepared:
    """Return the template's VM with what a front end adds to the VMs of its pods."""
    made = prepared.vm
    assert isinstance(made, VmSpec)
    read_only = {share.tag: share.read_only for share in vm.shares}
    shares = tuple(share._replace(read_only=read_only.get(share.tag, share.read_only)) for share in made.shares)
    same = made._replace(console_attached=vm.console_attached, memory_shim=vm.memory_shim, shares=shares)
    return prepared._replace(vm=same._replace(volume_server=vm.volume_server))


def _save(prepared: Prepared, vm: VmSpec, *, template: Template, vmm: "Vmm", limit_s: float) -> None:
    until = time.monotonic() + limit_s
    ours, theirs = socket.socketpair()
    with Monitor(ours.detach(), limit_s=limit_s) as monitor, theirs:
        vm = vm._replace(template=template._replace(monitor=theirs.fileno()))
        engine.boot(prepared._replace(vm=vm), vmm)
        theirs.close()
        assert isinstance(vm.link, SerialLink)
        with DirectClient(vm.link.socket, limit_s=until - time.monotonic()) as client:
            for warm_up in warm_ups(prepared.network):
                client.call(warm_up)
            for op in _CONTAINER:
                _try(client, op)
        _write_state(monitor, template)
        monitor.quit()


def _try(client: DirectClient, op: Op) -> None:
    """Best-effort: what does not succeed has warmed up less. Raises VmFailed, TimedOut."""
    try:
        client.call(op)
    except (VmFailed, TimedOut):
        raise
    except PodError:
        pass


def _write_state(monitor: Monitor, template: Template) -> None:
    fd = os.open(template.state, os.O_WRONLY | os.O_CLOEXEC)
    try:
        monitor.save(fd)
    finally:
        os.close(fd)


def _nobodys(pod: Pod) -> Pod:
    """A pod whose VM is the same, and that has nothing else of it."""
    pod_id = secrets.token_hex(32)
    kept = ("memory_mib", "vcpus", "online_vcpus", "kernel", "scratch_mib", "window_mib", "hypervisor")
    return Pod(id=pod_id, name=pod_id[:13], namespace="templates", **{one: getattr(pod, one) for one in kept})
