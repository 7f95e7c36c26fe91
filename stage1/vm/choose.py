# SPDX-License-Identifier: Apache-2.0
"""Which hypervisor runs a pod. Pure: host facts in, a choice with its reasons out.

Called by `clearpod run`, `serve` and `check`, which prints the reasons. `auto` is kvmtool where it can run,
else QEMU with KVM, else QEMU's emulator.
"""

import errno
import os
from typing import NamedTuple

from stage1.errors import BadRequest, NotFound
from stage1.linux.host import HostFacts

SLOW = "no usable hardware virtualisation: the VM is emulated (QEMU TCG), so isolation is by emulation and slow"


HOST = "host"
"""The driver of pods that have no VM."""


class Choice(NamedTuple):
    """`driver` is kvmtool or qemu, `accel` kvm or tcg, `binary` the VMM's path; `warning` may be empty. The driver may
    be HOST too: then `binary` is crun.

    `sandbox`: the VMM can forbid itself system calls (`-sandbox` of QEMU). `preload`: the library for DAX can be
    preloaded into it.
    """

    driver: str
    accel: str
    binary: str
    warning: str
    reasons: tuple[str, ...]
    sandbox: bool = False
    preload: bool = True


def choose(wanted: str, facts: HostFacts) -> Choice:
    """Decide for `wanted`: auto, kvmtool or qemu.

    Raises:
        BadRequest: no such hypervisor, or not on this CPU architecture.
        NotFound: what it needs is missing here; the message says what, and how to mend it.
    """
    if wanted not in ("auto", "kvmtool", "qemu"):
        raise BadRequest(f"there is no hypervisor {wanted!r}; it is auto, kvmtool or qemu")
    if facts.machine != "x86_64":
        raise BadRequest(f"pods run on x86_64 only, and this machine is {facts.machine}")
    lacks = kvmtool_lacks(facts)
    if wanted == "kvmtool" and lacks:
        raise NotFound(f"kvmtool can't run here: {'; '.join(lacks)}")
    if wanted != "qemu" and not lacks:
        reasons = ("kvmtool: lkvm, KVM and vhost-vsock are here",)
        return Choice("kvmtool", "kvm", facts.lkvm, "", reasons, preload=not facts.lkvm_static)
    return _qemu(facts, lacks if wanted == "auto" else ["QEMU was asked for"])


def on_host(facts: HostFacts) -> Choice:
    """For pods that have namespaces of the host, where they are allowed. Raises NotFound without crun."""
    if not facts.crun:
        raise NotFound("a pod with namespaces of the host needs crun, which is not on PATH: apt install crun")
    return Choice(HOST, "none", facts.crun, "", ("a pod with namespaces of the host runs on the host",))


def kvm_lacks(facts: HostFacts) -> list[str]:
    """What keeps hardware virtualisation from being used, each with its mending; empty when it works."""
    lacks = []
    if not facts.cpu_virtualization:
        lacks.append("the CPU shows neither vmx nor svm (turn virtualisation on in the firmware or the outer host)")
    if facts.kvm_error:
        lacks.append(f"/dev/kvm: {facts.kvm_error} ({kvm_remedy(facts)})")
    return lacks


def kvm_remedy(facts: HostFacts) -> str:
    """What to do about `facts.kvm_error`."""
    if facts.kvm_error == os.strerror(errno.EBUSY):
        return "end the other hypervisor that has the CPU's virtualisation"
    if facts.kvm_error in map(os.strerror, (errno.EACCES, errno.EPERM)):
        return "run as root, in a container with this device allowed"
    return f"modprobe {'kvm_intel' if facts.cpu_virtualization == 'vmx' else 'kvm_amd'}"


def kvmtool_lacks(facts: HostFacts) -> list[str]:
    """What keeps kvmtool from running, each with its mending; empty when it can."""
    lacks = kvm_lacks(facts)
    if not facts.lkvm:
        lacks.insert(0, "lkvm is not on PATH (Debian has no package: install kvmtool yourself)")
    elif facts.lkvm_old:
        lacks.insert(0, f"{facts.lkvm} is too old: it has no option --vsock (install a newer kvmtool)")
    if facts.vsock_error:
        lacks.append(f"/dev/vhost-vsock: {facts.vsock_error} (modprobe vhost_vsock)")
    return lacks


def _qemu(facts: HostFacts, why: list[str]) -> Choice:
    if not facts.qemu:
        raise NotFound(
            "qemu-system-x86_64 is not on PATH: apt install qemu-system-x86"
            + (f" (kvmtool can't run either: {'; '.join(why)})" if why != ["QEMU was asked for"] else "")
        )
    missing = kvm_lacks(facts)
    if not missing:
        reasons = (*why, "QEMU with KVM: the CPU and /dev/kvm allow it")
        return Choice("qemu", "kvm", facts.qemu, "", reasons, facts.qemu_sandbox)
    reasons = tuple(dict.fromkeys((*why, *missing, "QEMU with emulation (TCG): nothing else is left")))
    return Choice("qemu", "tcg", facts.qemu, SLOW, reasons, facts.qemu_sandbox)
