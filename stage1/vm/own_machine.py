# SPDX-License-Identifier: Apache-2.0
"""The machine of a kernel that an image brings, and the command lines of the hypervisors for it. Called by the drivers
when there is one: rkt's `run` waits for each line that it loads. Pure.

A kernel's end is the hypervisor's, whether it powers off or resets. A microvm without ACPI gives a kernel the places of
its devices on the command line; nobody can ask it to power off.
"""

from stage1.vm import kernel_line
from stage1.vm.limits import CACHE_MIB
from stage1.vm.spec import LISTENER_FD, TAP_FD, VmSpec

_MACHINES = {
    "microvm": "microvm,acpi=off",
    "microvm-pci": "microvm,acpi=on,pcie=on",
    "q35": "q35,vmport=off",
    "pc": "pc,vmport=off",
}
_OLD_AND_NEW = "disable-legacy=off,disable-modern=off"
"""Of virtio over PCI: many library operating systems know only what was before 1.0."""
_DEBUG_EXITS = ("isa-debug-exit,iobase=0x501,iosize=0x02", "isa-debug-exit,iobase=0xf4,iosize=0x04")
"""Where Solo5 and others write their exit code, and QEMU's own choice; where Hermit and others do."""


class OwnMachine:
    """What a VM is that boots a kernel out of an image, and no guest of ours: `kernel` and `initramfs` of the VM are
    that image's, `scratch` is its block image, and there is no link.

    `machine` is one of `pod.own_kernel`; `command_line` is whole. What its serial port says is appended to the file
    `serial`, and QEMU is reached at the unix socket `monitor`. With `has_debug_exit` the guest can say its exit code.
    """

    def __init__(self, machine: str, command_line: str, *, serial: str, monitor: str, has_debug_exit: bool) -> None:
        self.machine, self.command_line, self.serial, self.monitor = machine, command_line, serial, monitor
        self.has_debug_exit = has_debug_exit


def argv(vm: VmSpec, *, sandbox: str, errors: str) -> list[str]:
    """For QEMU, the whole line. `sandbox` and `errors` are options of its driver for what it may do, and for disks."""
    own = vm.own
    assert own
    return [
        vm.binary,
        *("-name", vm.name),
        *(("-sandbox", sandbox) if vm.sandbox else ()),
        *("-machine", _MACHINES[own.machine]),
        *("-accel", f"tcg,tb-size={CACHE_MIB}" if vm.accel == "tcg" else vm.accel),
        *("-cpu", "host" if vm.accel == "kvm" else "max"),
        *("-m", str(vm.memory_mib)),
        *("-smp", str(vm.vcpus)),
        *("-kernel", vm.kernel),
        *(("-initrd", vm.initramfs) if vm.initramfs else ()),
        *("-append", own.command_line),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"),
        *_monitor(vm, own),
        *(word for one in _DEBUG_EXITS if own.has_debug_exit for word in ("-device", one)),
        *_devices(vm, own, errors=errors),
    ]


def _monitor(vm: VmSpec, own: OwnMachine) -> list[str]:
    where = f"fd={LISTENER_FD}" if vm.jailer else f"path={own.monitor}"
    return ["-chardev", f"socket,id=monitor,{where},server=on,wait=off", "-mon", "chardev=monitor,mode=control"]


def _devices(vm: VmSpec, own: OwnMachine, *, errors: str) -> list[str]:
    kind, more = ("device", "") if own.machine == "microvm" else ("pci", f",{_OLD_AND_NEW}")
    argv = []
    if vm.scratch:
        argv += ["-drive", f"id=block,if=none,format=raw,cache=unsafe,{errors},file={vm.scratch}"]
        argv += ["-device", f"virtio-blk-{kind},drive=block{more}"]
    for number, nic in enumerate(vm.nics):
        where = f"fd={TAP_FD + number}" if vm.jailer else f"ifname={nic.tap},script=no,downscript=no"
        rom = ",romfile=" if kind == "pci" else ""
        argv += ["-netdev", f"tap,id=nic{number},{where}"]
        argv += ["-device", f"virtio-net-{kind},netdev=nic{number},mac={nic.mac}{rom}{more}"]
    return argv


def argv_of_pci(vm: VmSpec, *, before: str, network: list[str]) -> list[str]:
    """For kvmtool, which puts the arguments `before` those of the kernel, and has the options `network`."""
    own = vm.own
    assert own
    kernel_line.join([own.command_line], added_bytes=len(before) + 1)
    return [
        *(vm.binary, "run", "--name", "vm", "--kernel", vm.kernel),
        *(("--initrd", vm.initramfs) if vm.initramfs else ()),
        *("--mem", f"{vm.memory_mib}M", "--cpus", str(vm.vcpus), "--console", "serial"),
        *(("--disk", vm.scratch) if vm.scratch else ()),
        *network,
        *("--params", own.command_line),
    ]
