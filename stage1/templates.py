# SPDX-License-Identifier: Apache-2.0
"""Templates of guests: which VM can be a copy of one, and how one is made. The other parts are in `vm/template*.py`.

Called by the daemon, in worker threads. A template is made of a VM in a pod's place as a prewarmed one, up to where its
agent waits for settings: `engine.clean_up` undoes all but the files of the template, which appear when they are whole.
"""

import os
import secrets
import socket
import time
from typing import NamedTuple

from stage1 import engine, prewarmed
from stage1.engine import Host, Prepared
from stage1.errors import PodError, TimedOut, VmFailed
from stage1.guest.direct_client import DirectClient
from stage1.guest.messages import Create, Delete, Op, Start
from stage1.guest.settings import warm_ups
from stage1.machine import MIB
from stage1.pod.model import Pod
from stage1.vm import template_key
from stage1.vm.monitor import Monitor
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.template import ARGUMENT, Template
from stage1.vm.template_store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stage1.vm.vmm import Vmm

MAC = prewarmed.MAC
"""Of the device that a guest has before it knows its pod."""


_CONTAINER: tuple[Op, ...] = (Create("warm-up", "warm-up", tmpfs=True), Start("warm-up"), Delete("warm-up"))
"""What is done once before a guest is saved: crun is loaded, finds no configuration, and is removed with its root."""


class TemplateSpec(NamedTuple):
    """The template that the VM `vm` of `pod` can be a copy of: its name, and what it has to be made of."""

    pod: Pod
    vm: VmSpec
    name: str
    made_of: "Mapping[str, str]"

    def copy(self, template: Template) -> VmSpec:
        """The VM as a copy of it."""
        return self.vm._replace(template=template)


def spec_of(prepared: Prepared, host: Host) -> TemplateSpec | None:
    """None when the pod's VM can't be a copy of any. Raises BadRequest, KernelError."""
    pod, vm = prepared.pod, prepared.vm
    if not isinstance(vm, VmSpec) or lack(pod, vm):
        return None
    vm = vm._replace(
        nics=tuple(one._replace(mac=MAC) for one in vm.nics), kernel_arguments=(*vm.kernel_arguments, ARGUMENT)
    )
    scratch_bytes = (pod.scratch_mib or host.scratch_mib) * MIB
    made_of = template_key.parts(vm, scratch_bytes=scratch_bytes, host=template_key.this_host())
    return TemplateSpec(pod, vm, template_key.name(made_of), made_of)


def remove_unused(store: Store, *, most_bytes: int) -> list[str]:
    """Remove templates that no VM can be a copy of any more, and those beyond so much of the disk; their names. Nobody
    may be making one.
    """
    facts = template_key.this_host()
    return store.remove_unused(lambda made_of: template_key.is_current(made_of, facts), most_bytes=most_bytes)


def lack(pod: Pod, vm: VmSpec) -> str:
    """Why that VM can't be a copy of a template; empty when it can."""
    if not vm.hypervisor.has_templates:
        return f"{vm.hypervisor.title} can't save a guest"
    if vm.own:
        return "its pod brings its own kernel"
    if pod.boots or pod.disk_volumes:
        return "its pod asks for a boot"
    if pod.suspend:
        return "its pod can be suspended"
    if pod.profile:
        return f"a guest with {pod.profile} has run programs before its pod is known"
    if pod.has_virtiofs:
        return "its volumes come by virtiofsd"
    if pod.ids.length:
        return "its pod has a user namespace, and a guest that waits has another one"
    if pod.disk_volumes:
        return "its disk has volumes that outlast it"
    if len(vm.nics) > 1:
        return "a guest that waits has one network device"
    if vm.console_attached or not isinstance(vm.link, SerialLink):
        return "its pod is autonomous"
    return ""


def make(spec: TemplateSpec, host: Host, *, vmm: "Vmm", store: Store, limit_s: float) -> Template:
    """Boot a VM by `vmm` and save it. Raises VmFailed, also when the VM is ended meanwhile, TimedOut, and what
    `engine.prepare` does; nothing is left then.
    """
    host = host if spec.vm.nics else host._replace(network=None)
    prepared = prewarmed.prepare(_nobodys(spec.pod), host)
    try:
        same = spec_of(prepared, host)
        if same is None or same.made_of != spec.made_of:
            raise VmFailed("a template can't be made: its VM would be another one than the pod's")
        template = store.begin(spec.name, spec.vm.memory_mib * MIB)
        try:
            _save(prepared, same.vm, template=template, vmm=vmm, limit_s=limit_s)
            return store.commit(spec.name, spec.made_of)
        finally:
            store.abandon(spec.name)
    finally:
        engine.clean_up(prepared.directory)


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
    kept = ("memory_mib", "vcpus", "online_vcpus", "kernel", "maps_volumes", "scratch_mib", "window_mib", "hypervisor")
    return Pod(id=pod_id, name=pod_id[:13], namespace="templates", **{one: getattr(pod, one) for one in kept})
