# SPDX-License-Identifier: Apache-2.0
"""A third hypervisor: all that it takes to add one is a file like this, and a line in stage1/vm/hypervisors.py. It is
a shell script that says what it was given. Used by tests/unit/vm/test_hypervisors.py.
"""

from stage1.linux import host
from stage1.linux.host import Program
from stage1.vm import kernel_line, startup
from stage1.vm.hypervisor import Hypervisor
from stage1.vm.spec import VmSpec


def _find() -> Program:
    path = host.which("third-vmm")
    return Program(path) if path else Program(lack="third-vmm is not on PATH", remedy="write it")


def _argv(vm: VmSpec) -> list[str]:
    line = kernel_line.join(kernel_line.for_agent(vm, system="/dev/vda", scratch="/dev/vdb"), added_bytes=0)
    return [vm.binary, vm.kernel, f"{vm.memory_mib}M", line]


HYPERVISOR = Hypervisor(
    name="third",
    title="Third",
    kernel="Image",
    filter="seccomp-third.bpf",
    find=_find,
    is_program=lambda name: name == "third-vmm",
    argv=_argv,
    environment=lambda vm: {"THIRD": vm.name},
    listener=lambda vm: None,
    has_ended=startup.ends_within,
    can_emulate=True,
)
