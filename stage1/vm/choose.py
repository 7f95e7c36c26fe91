# SPDX-License-Identifier: Apache-2.0
"""Which hypervisor runs a pod. Pure: host facts in, a choice with its reasons out.

Called by `clearpod run`, `serve` and `check`, which prints the reasons. `auto` is the first of `hypervisors.ALL` that
can run here, by emulation if it must.
"""

import errno
import os
from typing import NamedTuple

from stage1.errors import BadRequest, NotFound
from stage1.linux.host import HostFacts, Program
from stage1.vm import hypervisors
from stage1.vm.spec import Hypervisor

SLOW = "no usable hardware virtualisation: the VM is emulated (TCG), so isolation is by emulation and slow"


class Choice(NamedTuple):
    """`accel` is kvm or tcg, `binary` the VMM's path; `warning` may be empty.

    `sandbox`: the VMM can forbid itself system calls. `preload`: the library for DAX can be preloaded into it.
    """

    hypervisor: Hypervisor
    accel: str
    binary: str
    warning: str
    reasons: tuple[str, ...]
    sandbox: bool = False
    preload: bool = True
    has_rdrand: bool = False
    """The guest's processor gives random numbers."""

    @property
    def is_emulated(self) -> bool:
        """Whether the guest's processor is emulated."""
        return self.accel == "tcg"

    @property
    def has_dax(self) -> bool:
        """Whether images are mapped into the memory of its guests."""
        return bool(self.hypervisor.shim) and self.preload

    def __str__(self) -> str:
        return f"{self.hypervisor.name} ({self.accel}), {self.binary}"


def choose(name: str, facts: HostFacts) -> Choice:
    """Choose the hypervisor for `name`: auto, or the name of one.

    Raises:
        BadRequest: no such hypervisor, or not on this CPU architecture.
        NotFound: a requirement is missing here; the message names it, and how to fix it.
    """
    names = ("auto", *hypervisors.names())
    if name not in names:
        raise BadRequest(f"there is no hypervisor {name!r}; it is {', '.join(names[:-1])} or {names[-1]}")
    if facts.machine != "x86_64":
        raise BadRequest(f"pods run on x86_64 only, and this machine is {facts.machine}")
    reasons: list[str] = []
    failed: list[str] = []
    for one in hypervisors.ALL:
        if name not in ("auto", one.name):
            continue
        if not (missing := lacks(one, facts)):
            asked = [f"{one.title} was asked for"] if name != "auto" else []
            return _chosen(one, facts, reasons=[*reasons, *asked])
        reasons += missing
        failed.append(f"{one.title} can't run here: {'; '.join(missing)}")
    raise NotFound("; ".join(dict.fromkeys(failed)))


def _chosen(one: Hypervisor, facts: HostFacts, *, reasons: list[str]) -> Choice:
    program, missing = facts.programs[one.name], kvm_lacks(facts)
    accel, warning = ("tcg", SLOW) if missing else ("kvm", "")
    how = "emulation (TCG), since nothing else is possible" if missing else "KVM: the CPU and /dev/kvm allow it"
    why = tuple(dict.fromkeys((*reasons, *missing, f"{one.title} with {how}")))
    has_rdrand = accel == "kvm" and facts.has_rdrand
    return Choice(one, accel, program.path, warning, why, program.sandbox, program.preload, has_rdrand)


def crun(facts: HostFacts) -> str:
    """The crun for pods with namespaces of the host, where they are allowed. Raises NotFound without one."""
    if not facts.crun:
        raise NotFound("a pod with namespaces of the host needs crun, which is not on PATH: apt install crun")
    return facts.crun


def lacks(hypervisor: Hypervisor, facts: HostFacts) -> list[str]:
    """The reasons why it can't run here, each with its remedy; empty if it can."""
    program = facts.programs.get(hypervisor.name, Program(lack="it was not looked for"))
    missing = [f"{program.lack} ({program.remedy})"] if program.lack else []
    if not hypervisor.can_emulate:
        missing += kvm_lacks(facts)
    if hypervisor.uses_vsock and facts.vsock_error:
        missing.append(f"/dev/vhost-vsock: {facts.vsock_error} (modprobe vhost_vsock)")
    return missing


def kvm_lacks(facts: HostFacts) -> list[str]:
    """The reasons why hardware virtualisation can't be used, each with its remedy; empty if it works."""
    lacks = []
    if not facts.cpu_virtualization:
        lacks.append("the CPU shows neither vmx nor svm (turn virtualisation on in the firmware or the outer host)")
    if facts.kvm_error:
        lacks.append(f"/dev/kvm: {facts.kvm_error} ({kvm_remedy(facts)})")
    return lacks


def kvm_remedy(facts: HostFacts) -> str:
    """The remedy for `facts.kvm_error`."""
    if facts.kvm_error == os.strerror(errno.EBUSY):
        return "end the other hypervisor that uses the CPU's virtualisation"
    if facts.kvm_error in map(os.strerror, (errno.EACCES, errno.EPERM)):
        return "run as root, in a container with this device allowed"
    return f"modprobe {'kvm_intel' if facts.cpu_virtualization == 'vmx' else 'kvm_amd'}"
