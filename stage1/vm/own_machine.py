# SPDX-License-Identifier: Apache-2.0
"""The machine of a kernel that an image brings, and the command lines of the hypervisors for it. Called by the drivers
when there is one. Pure.

A kernel's end is the hypervisor's, whether it powers off, resets or panics: which it was, QEMU's monitors say, so the
VM begins when one is listened to. A microvm without ACPI gives a kernel the places of its devices on the command line;
it can't be asked to power off.
"""

from stage1.vm import kernel_line
from stage1.vm.limits import CACHE_MIB
from stage1.vm.spec import LISTENER_FD, MONITOR_FD, TAP_FD, OwnMachine, VmSpec

_MACHINES = {
    "microvm": "microvm,acpi=off",
    "microvm-pci": "microvm,acpi=on,pcie=on",
    "q35": "q35,vmport=off",
    "pc": "pc,vmport=off",
}
_OLD_AND_NEW, _NEW = "disable-legacy=off,disable-modern=off", "disable-legacy=on,disable-modern=off"
"""Of virtio over PCI: many library operating systems know only what was before 1.0, others only the ids of later."""
_AS_FIRECRACKER = ("-global", "virtio-mmio.force-legacy=false", "-device", "i8042,mouse-irq=15")
"""Of a microvm: virtio 1.0 over MMIO, and the keyboard's controller, by which Firecracker's kernels end. The mouse's
interrupt would be a virtio device's.
"""
_PLACES, _PLACE_BYTES, _FIRST_PLACE, _FIRST_IRQ = 8, 512, 0xFEB00000, 5
"""Of a microvm's virtio devices; QEMU gives the first one the last place."""
_PANIC = ("-device", "pvpanic")
"""The pvpanic device, by whose port 0x505 a kernel reports a panic: Unikraft, OSv and Linux do."""
_DASHES = " -- "
TRACE = "system_shutdown_request"
"""QEMU's message on stderr when its guest powers off, if it is built to print one. If the guest resets as well, to be
sure, the end is reported as a reset.
"""
BEGIN = ("qmp_capabilities", "cont")
"""The commands for a monitor: to report events, and to start the VM."""
_DEBUG_EXITS = ("isa-debug-exit,iobase=0x501,iosize=0x02", "isa-debug-exit,iobase=0xf4,iosize=0x04")
"""The ports to which Solo5 and others write their exit code, which is QEMU's default; and to which Hermit and others
do.
"""


_PLAIN_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
_TOPS = frozenset(
    (
        "bin",
        "dev",
        "etc",
        "gnu",
        "home",
        "lib",
        "lib64",
        "nix",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "var",
    )
)
"""Names in the root of a jail that may be something else."""


def argv(vm: VmSpec, *, sandbox: str, errors: str) -> list[str]:
    """QEMU's whole command line. `sandbox` and `errors` are options of its driver for its seccomp filter, and for
    disks.
    """
    own, (kernel, initrd) = vm.own, _loaded(vm)
    assert own
    return [
        vm.binary,
        *("-name", f"{vm.name} {vm.run_dir}"),  # by which `vmm.find_unrecorded` knows it
        *(("-sandbox", sandbox) if vm.sandbox else ()),
        *("-machine", _machine(vm, own) + (",auto-kernel-cmdline=off" if _places(vm, own) else "")),
        *(_AS_FIRECRACKER if own.features.is_modern and own.machine == "microvm" else ()),
        *("-accel", f"tcg,tb-size={CACHE_MIB}" if vm.accel == "tcg" else vm.accel),
        *("-cpu", "host" if vm.accel == "kvm" else "max"),
        *("-m", str(vm.memory_mib)),
        *("-smp", str(vm.vcpus)),
        *("-kernel", kernel),
        *(("-initrd", initrd) if initrd else ()),
        *("-append", _command_line(vm, own)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-S", "-display", "none", "-trace", f"*_{TRACE}"),
        *("-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"),
        *_monitor(vm, own),
        *(word for one in _DEBUG_EXITS if own.features.has_debug_exit for word in ("-device", one)),
        *_PANIC,
        *_devices(vm, own, errors=errors),
    ]


def _machine(vm: VmSpec, own: OwnMachine) -> str:
    """The machine with its options. A microvm with ACPI has no clock but KVM's, and without KVM a stock Linux waits
    there for its first timer for ever: a q35 has the same devices and clocks of its own.
    """
    return _MACHINES["q35" if own.machine == "microvm-pci" and vm.accel == "tcg" else own.machine]


def links(vm: VmSpec) -> dict[str, str]:
    """Symbolic links in the root of the VMM's jail, with their targets: QEMU tells a multiboot kernel, and its module,
    the paths that it has loaded them from, and it must not see those of the host.
    """
    made: dict[str, str] = {}
    if not vm.hypervisor.boots_all_kernels or not vm.jailer:
        return made
    paths = (vm.kernel, vm.initramfs, vm.binary, vm.run_dir, vm.scratch, *(share.path for share in vm.shares))
    taken = _TOPS.union(path.split("/")[1] for path in paths if path)
    for path, word in ((vm.kernel, "kernel"), (vm.initramfs, "initrd")):
        if not path or ":" in path:  # which ends a target in a jail's description
            continue
        usable = (one for one in (path.rpartition("/")[2], word, f"{word}.image") if _is_plain(one))
        made |= {f"/{name}": path for name in [one for one in usable if one not in taken][:1]}
        taken = taken.union(name[1:] for name in made)
    return made


def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.issuperset(name) and name[:1] not in ("", ".", "-")


def _loaded(vm: VmSpec) -> tuple[str, str]:
    """What QEMU is told to load: names in the root of its jail, which is its working directory, or the host's paths."""
    names = {path: link[1:] for link, path in links(vm).items()}
    return names.get(vm.kernel, vm.kernel), names.get(vm.initramfs, vm.initramfs)


def _places(vm: VmSpec, own: OwnMachine) -> list[str]:
    """Command-line words for a microvm's devices, where QEMU would write them behind two dashes: what follows these is
    the program's. None elsewhere.
    """
    if own.machine != "microvm" or _DASHES not in f" {own.command_line} ":
        return []
    numbers = range(_PLACES - 1, _PLACES - 1 - bool(vm.scratch) - len(vm.nics), -1)
    return [f"virtio_mmio.device={_PLACE_BYTES}@{_FIRST_PLACE + n * _PLACE_BYTES:#x}:{_FIRST_IRQ + n}" for n in numbers]


def _command_line(vm: VmSpec, own: OwnMachine) -> str:
    places = "".join(f" {one}" for one in _places(vm, own))
    before, dashes, behind = f" {own.command_line} ".partition(_DASHES)
    return f"{before}{places}{dashes}{behind}".strip() if places else own.command_line


def _monitor(vm: VmSpec, own: OwnMachine) -> list[str]:
    where = f"fd={LISTENER_FD}" if vm.jailer else f"path={own.monitor}"
    argv = ["-chardev", f"socket,id=monitor,{where},server=on,wait=off", "-mon", "chardev=monitor,mode=control"]
    if own.features.has_launcher:
        argv += ["-chardev", f"socket,id=launcher,fd={MONITOR_FD}", "-mon", "chardev=launcher,mode=control"]
    return argv


def _devices(vm: VmSpec, own: OwnMachine, *, errors: str) -> list[str]:
    kind, more = (
        ("device", "") if own.machine == "microvm" else ("pci", f",{_NEW if own.features.is_modern else _OLD_AND_NEW}")
    )
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
    """kvmtool's command line; it puts the arguments `before` those of the kernel, and has the options `network`."""
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
