# SPDX-License-Identifier: Apache-2.0
"""Which VM can be a copy of which template. For `stage1.templates`, which makes them, the daemon and rkt's pods.

It looks at files' sizes and times and at the processor; nothing is made or started here.
"""

from typing import NamedTuple

from stage1.pod.model import Pod
from stage1.pod.network import waiting_mac
from stage1.vm import template_key
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.template import Template, arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class TemplateSpec(NamedTuple):
    """The template that the VM `vm` of `pod` can be a copy of: its name, and what it has to be made of."""

    pod: Pod
    vm: VmSpec
    name: str
    made_of: "Mapping[str, str]"

    def copy(self, template: Template) -> VmSpec:
        """The VM as a copy of it."""
        return self.vm._replace(template=template)


def spec_of(pod: Pod, vm: VmSpec, *, scratch_bytes: int, disk: str = "") -> TemplateSpec | None:
    """None when the pod's VM can't be a copy of any. Its disk, if it has one, is of that size; `disk` is the UUID of
    its file system if that is mounted before the guest is saved, which keeps blocks of it. Raises BadRequest,
    KernelError.
    """
    if lack(pod, vm):
        return None
    nics = tuple(one._replace(mac=waiting_mac(number)) for number, one in enumerate(vm.nics))
    vm = vm._replace(
        nics=nics, kernel_arguments=(*vm.kernel_arguments, *arguments(vm.memory_mib, gives_back=bool(vm.memory_shim)))
    )
    made_of = template_key.parts(vm, scratch_bytes=scratch_bytes, host=template_key.this_host())
    if disk:
        made_of |= {"disk": disk}
    return TemplateSpec(pod, vm, template_key.name(made_of), made_of)


def lack(pod: Pod, vm: VmSpec) -> str:
    """Why that VM can't be a copy of a template; empty when it can."""
    if not vm.hypervisor.has_templates:
        return f"{vm.hypervisor.title} can't save a guest"
    if vm.own:
        return "its pod has a kernel of its own"
    if vm.is_stock:
        return "it boots a distribution's kernel"
    if pod.boots or pod.disk_volumes:
        return "its pod has the annotation to boot"
    if pod.suspend:
        return "its pod can be suspended"
    if pod.profile:
        return f"a guest with {pod.profile} runs programs before it gets its pod"
    if pod.ids.length:
        return "its pod has a user namespace, which a prewarmed guest does not have"
    if not isinstance(vm.link, SerialLink):
        return "its link can't be saved"
    return ""
