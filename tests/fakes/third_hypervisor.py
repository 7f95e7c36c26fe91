# SPDX-License-Identifier: Apache-2.0
"""A third hypervisor: all that is needed to add one is a file like this, and a line in stage1/vm/hypervisors.py. It is
a shell script that prints its arguments. Used by tests/unit/vm/test_hypervisors.py.
"""

from stage1.linux import host
from stage1.linux.host import Program
from stage1.linux.process import PidHandle
from stage1.vm import kernel_line, startup
from stage1.vm.spec import Hypervisor, VmSpec


class _Third(Hypervisor):
    name, title = "third", "Third"
    kernel, filter = "Image", "seccomp-third.bpf"
    can_emulate = True

    def find(self) -> Program:
        path = host.which("third-vmm")
        return Program(path) if path else Program(lack="third-vmm is not on PATH", remedy="write it")

    def is_program(self, name: str) -> bool:
        return name == "third-vmm"

    def argv(self, vm: VmSpec) -> list[str]:
        line = kernel_line.join(kernel_line.for_agent(vm, system="/dev/vda", scratch="/dev/vdb"), added_bytes=0)
        return [vm.binary, vm.kernel, f"{vm.memory_mib}M", line]

    def environment(self, vm: VmSpec) -> dict[str, str]:
        return {"THIRD": vm.name}

    def listener(self, vm: VmSpec) -> None:
        return None

    def has_ended(self, handle: PidHandle, watch_s: float) -> bool:
        return startup.ends_within(handle, watch_s)


HYPERVISOR = _Third()
