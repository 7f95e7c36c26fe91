# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel command line, as far as both hypervisors share it. Pure; for `qemu.py` and `kvmtool.py`.

Each argument of SPEED takes time out of the boot; those for the agent are in docs/dev/link.md.
"""

from stage1.errors import BadRequest
from stage1.vm.spec import SerialLink, VmSpec

LIMIT_BYTES = 2048
"""COMMAND_LINE_SIZE of x86, the terminating zero included; kvmtool's own buffer is as long."""

SPEED = (
    "quiet",
    "tsc=reliable",
    "no_timer_check",
    "noreplace-smp",
    "rcupdate.rcu_expedited=1",
    "dummy.numdummies=0",  # else each guest has a dummy0, which statistics would show
)

STOCK = (
    *SPEED,
    "nokaslr",
    "mitigations=off",  # the boundary of a pod is its VM, as with a kernel of ours
    "cryptomgr.notests",
    "8250.nr_uarts=1",
    "i8042.noaux",
    "i8042.nokbd",
    "nowatchdog",
    "raid=noautodetect",
    "random.trust_cpu=on",
)
"""For a distribution's kernel, in place of SPEED: by icount from 1.88 to 0.81 s until PID 1, with acpi=off."""


def for_agent(vm: VmSpec, *, system: str, scratch: str) -> list[str]:
    """Arguments that tell the agent its link and its disks; `system` and `scratch` are the guest's device names."""
    link = "serial" if isinstance(vm.link, SerialLink) else f"vsock:{vm.link.port}"
    arguments = [f"clearpod.link={link}", f"clearpod.system={system}"]
    if vm.scratch:
        arguments.append(f"clearpod.scratch={scratch}{'1' if vm.is_scratch_parted else ''}")
    if vm.console_attached:
        arguments.append("clearpod.plan")
    return arguments


def join(arguments: list[str], *, added_bytes: int) -> str:
    """One line. Raises BadRequest when it, with what the VMM adds, is longer than the kernel takes."""
    line = " ".join(arguments)
    length = len(line.encode()) + added_bytes + 1
    if length > LIMIT_BYTES:
        raise BadRequest(
            f"the guest's kernel command line would have {length} bytes of at most {LIMIT_BYTES}; "
            f"give the VM fewer or shorter arguments than {line[:60]!r}..."
        )
    return line
