# SPDX-License-Identifier: Apache-2.0
"""The machine of a snapshot: what its guest was made of, why a VM can't begin with it (`difference`), and which VM can
be a copy of which template.

It looks at files' sizes and times and at the processor. It reads no guest, and nothing is made or started here.
"""

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.pod.model import Pod
from stage1.pod.network import waiting_mac
from stage1.snapshot.format import Manifest
from stage1.vm.spec import Nic, SerialLink, VmSpec
from stage1.vm.template import Template, arguments

FORMAT = "2"
"""Of the files, and of what the agent does before it is saved."""
_CPU = frozenset(("vendor_id", "cpu family", "model", "stepping", "microcode", "flags"))
_FILES = ("kernel", "initramfs", "system", "hypervisor")
_LABELS = {
    "system": "system image",
    "hypervisor": "VMM",
    "cpu": "processor of the host",
    "host": "kernel of the host",
    "scratch": "size of the disk",
    "arguments": "machine (vCPUs, devices, options of its kernel)",
}
"""What the parts are called in errors; `kernel`, `initramfs` and `format` keep their names."""
_OF_POD = ("scratch", "arguments")
"""The parts that the pod's request determines. Files are named in them, too: they are compared last."""
_POD = "/pod"
_MEASURED = ("tsc_early_khz=", "lpj=")
"""Kernel arguments with numbers that each daemon measures, slightly differently each time."""


def parts(vm: VmSpec, *, scratch_bytes: int, host: Mapping[str, str]) -> dict[str, str]:
    """All that must be equal, by names for people. `host` is what `of_host` says. Raises BadRequest, KernelError."""
    plain = _without_pod(vm)
    return {
        "format": FORMAT,
        "arguments": "\n".join(vm.hypervisor.argv(plain)),
        "scratch": str(scratch_bytes if vm.scratch else 0),
        **booted(vm),
        **host,
    }


def name(made_of: Mapping[str, str]) -> str:
    """32 hexadecimal digits."""
    return str(sha256("\0".join(part for item in sorted(made_of.items()) for part in item).encode()).hexdigest())[:32]


def booted(vm: VmSpec) -> dict[str, str]:
    """The files among the parts: all that a guest which stays in its pod and on its host needs again. Raises
    KernelError.
    """
    return {name: identity(path) for name, path in zip(_FILES, _paths(vm), strict=True)}


def now(made_of: Mapping[str, str], host: Mapping[str, str]) -> dict[str, str]:
    """The parts as this host would have them, whatever the pod is: its files may have been replaced, or removed."""
    files_now = {name: was if _is_there(was) else "" for name in _FILES for was in (made_of.get(name, ""),)}
    return {"format": FORMAT, **host, **{name: was or "gone" for name, was in files_now.items()}}


def difference(
    snapshot: Manifest,
    machine: Mapping[str, str],
    *,
    memory_mib: int = 0,
    interfaces: Sequence[str] | None = None,
    remedy: str = "",
) -> str:
    """Why a VM that is made of `machine` can't begin with the snapshot, as a sentence; empty when it can. What is not
    known of the VM (parts, memory, names of its interfaces) is not compared. `remedy` is what to do where this host has
    changed. Raises KernelError.
    """
    end = f"; {remedy}" if remedy else ""
    if memory_mib and memory_mib != snapshot.memory_mib:
        return (
            f"the pod would have {memory_mib} MiB of memory, and the saved guest has {snapshot.memory_mib} MiB;"
            " ask for the same"
        )
    if other := changed(snapshot.made_of, machine):
        label = _LABELS.get(other, other)
        if other in _OF_POD:
            return f"the saved guest has another {label} than this pod would have here; ask for the same"
        return f"the saved guest has another {label} than this host has now{end}"
    for file, _, _, was in snapshot.pieces:
        if not is_same(file, was):
            return f"{file}, of an image of the saved guest, was replaced{end}"
    if interfaces is not None:
        names, others = [one.name for one in snapshot.interfaces], list(interfaces)
        if names != others:
            return f"the saved guest has the networks {names}, and this pod would have {others}; ask for the same"
    return ""


def changed(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first part in which a machine is another one, those of the pod's choice last; empty when there is none."""
    others = [name for name in now if was.get(name) != now[name]]
    return min(others, key=lambda name: name in _OF_POD, default="")


def outdated(snapshot: Manifest) -> str:
    """Why no pod of this host can begin with it any more, as a sentence; empty when one could. Raises KernelError."""
    return difference(snapshot, now(snapshot.made_of, this_host()))


def _is_there(was: str) -> bool:
    return is_same(was.rsplit(" ", 3)[0], was)


def is_same(path: str, was: str) -> bool:
    """Whether the file has that `identity` still: it may have been replaced, or removed."""
    try:
        return identity(path) == was
    except KernelError:
        return False


def identity(path: str) -> str:
    """Another one after the file was replaced or written to. Raises KernelError."""
    real = os.path.realpath(path)
    with Guard("stat", real):
        status = os.stat(real)
    return f"{real} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def of_host(cpuinfo: str, kernel: os.uname_result) -> dict[str, str]:
    """The parts that concern the machine: a guest keeps what it has found of the processor and of the tap."""
    first = cpuinfo.partition("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    cpu = [f"{key.strip()}={value.strip()}" for key, _, value in fields if key.strip() in _CPU]
    return {"cpu": "\n".join(cpu), "host": f"{kernel.release} {kernel.version} {kernel.machine}"}


def this_host() -> dict[str, str]:
    """`of_host` of the machine that we are on. Raises KernelError."""
    return of_host(files.read("/proc/cpuinfo").decode(errors="replace"), os.uname())


def _paths(vm: VmSpec) -> tuple[str, str, str, str]:
    return vm.kernel, vm.initramfs, vm.system_image, vm.binary


def _without_pod(vm: VmSpec) -> VmSpec:
    """The same VM whoever's it is."""
    return vm._replace(
        name="template",
        run_dir=_POD,
        link=SerialLink(f"{_POD}/agent.sock"),
        shares=tuple(share._replace(path=f"{_POD}/{share.tag}") for share in vm.shares),
        scratch=vm.scratch and f"{_POD}/scratch",
        nics=tuple(Nic("tap", "") for _ in vm.nics),
        kernel_arguments=tuple(
            word.partition("=")[0] if word.startswith(_MEASURED) else word for word in vm.kernel_arguments
        ),
        template=Template("/template"),
    )


class TemplateSpec(NamedTuple):
    """The template that the VM `vm` of `pod` can be a copy of: its name, and what it has to be made of."""

    pod: Pod
    vm: VmSpec
    name: str
    made_of: Mapping[str, str]

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
    made_of = parts(vm, scratch_bytes=scratch_bytes, host=this_host())
    if disk:
        made_of |= {"disk": disk}
    return TemplateSpec(pod, vm, name(made_of), made_of)


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
