# SPDX-License-Identifier: Apache-2.0
"""Which virtual machines the nested benchmark starts, as command lines of the outer machine's world. Pure.

Called by machine.py. The product's own command lines are taken as they are, so that what is measured is what is run.
"""

from collections.abc import Iterable
from typing import NamedTuple

from stage1.vm import dax, kvmtool, qemu
from stage1.vm.spec import Dax, DaxImage, SerialLink, VmSpec, VsockLink

GUEST = "/guest"
"""In the outer machine: the directory of kernel, initramfs and system image."""
FILTER = f"{GUEST}/seccomp-kvmtool.bpf"
LKVM, SHIM, QEMU = "/usr/bin/lkvm", f"{GUEST}/lkvm-shim.so", "/usr/bin/qemu-system-x86_64"
MEMORY_MIB, DEBIAN_MEMORY_MIB, WINDOW_MIB = 128, 256, 256
CID = 3
EXITS = ("kvm/kvm_exit",)
DEBIAN_LINE = "console=ttyS0 quiet panic=-1"


class Variant(NamedTuple):
    """One kind of virtual machine: how it is started and with which environment."""

    name: str
    title: str
    argv: list[str]
    env: dict[str, str]
    is_long: bool = False
    filter: str = ""


def variants(system_bytes: int, systemd_bytes: int, *, kernel_bytes: int, with_lkvm: bool) -> list[Variant]:
    """All kinds, those of kvmtool first; the sizes are those of the system images, 0: none, and of the bzImage."""
    of_systemd = [_lkvm_systemd(systemd_bytes, kernel_bytes)] if systemd_bytes else []
    ours = _lkvm(system_bytes, kernel_bytes)
    lkvm = [ours, _lkvm_window(system_bytes), _lkvm_plain(), *of_systemd] if with_lkvm else []
    return [*lkvm, _microvm(), _q35()]


def _spec(link: SerialLink | VsockLink, kernel: str, binary: str) -> VmSpec:
    return VmSpec(
        name="bench",
        hypervisor=kvmtool.HYPERVISOR if isinstance(link, VsockLink) else qemu.HYPERVISOR,
        binary=binary,
        run_dir="/run",
        kernel=f"{GUEST}/{kernel}",
        initramfs=f"{GUEST}/initramfs",
        system_image=f"{GUEST}/system.erofs",
        memory_mib=MEMORY_MIB,
        vcpus=1,
        link=link,
        accel="kvm",
        has_rdrand=True,
        kernel_arguments=("clearpod.mark",),
        filter=FILTER if isinstance(link, VsockLink) else "",
    )


def _lkvm(system_bytes: int, kernel_bytes: int, memory_mib: int = MEMORY_MIB) -> Variant:
    image = DaxImage(f"{GUEST}/system.erofs", system_bytes)
    vm = _spec(VsockLink(CID, 1024), "bzImage", LKVM)._replace(dax=Dax(SHIM, (image,)), memory_mib=memory_mib)
    env = kvmtool.environment(vm) | dax.small_pages(memory_mib, kernel_bytes)
    return Variant("lkvm", "kvmtool, system image by DAX", kvmtool.argv(vm), env, filter=vm.filter)


def sizes(system_bytes: int, kernel_bytes: int, memory_mib: Iterable[int]) -> list[Variant]:
    """Guests of kvmtool with so much memory, named after it."""
    return [_lkvm(system_bytes, kernel_bytes, mib)._replace(name=f"lkvm_{mib}") for mib in memory_mib]


def _lkvm_window(system_bytes: int) -> Variant:
    image = DaxImage(f"{GUEST}/system.erofs", system_bytes)
    dax = Dax(SHIM, (image,), WINDOW_MIB << 20, "/run/dax.sock")
    vm = _spec(VsockLink(CID, 1024), "bzImage", LKVM)._replace(dax=dax)
    return Variant(
        "lkvm_window", "kvmtool, with a window for images", kvmtool.argv(vm), kvmtool.environment(vm), filter=vm.filter
    )


def _lkvm_plain() -> Variant:
    vm = _spec(VsockLink(CID, 1024), "bzImage", LKVM)
    return Variant(
        "lkvm_plain", "kvmtool without the shim", kvmtool.argv(vm), kvmtool.environment(vm), filter=vm.filter
    )


def _lkvm_systemd(system_bytes: int, kernel_bytes: int) -> Variant:
    image = DaxImage(f"{GUEST}/system-systemd.erofs", system_bytes)
    vm = _spec(VsockLink(CID, 1024), "bzImage", LKVM)._replace(dax=Dax(SHIM, (image,)))
    vm = vm._replace(initramfs=f"{GUEST}/initramfs-systemd", system_image=image.path)
    env = kvmtool.environment(vm) | dax.small_pages(vm.memory_mib, kernel_bytes)
    return Variant("lkvm_systemd", "kvmtool, the profile with systemd by DAX", kvmtool.argv(vm), env, filter=vm.filter)


def _microvm() -> Variant:
    vm = _spec(SerialLink("/run/agent.sock"), "vmlinux", QEMU)
    return Variant("microvm", "QEMU microvm, the same guest", qemu.argv(vm), qemu.environment(vm))


def _q35() -> Variant:
    argv = [
        QEMU, *("-M", "q35"), *("-accel", "kvm"), *("-cpu", "host"), *("-m", str(DEBIAN_MEMORY_MIB)), *("-smp", "1"),
        *("-kernel", f"{GUEST}/debian.vmlinuz"), *("-initrd", f"{GUEST}/debian.initramfs"),
        *("-append", DEBIAN_LINE), "-nodefaults", "-no-user-config", "-no-reboot",
        *("-display", "none"), *("-serial", "stdio"),
        *("-drive", f"id=disk,if=none,format=raw,file={GUEST}/debian.ext4,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=disk"), *("-device", "virtio-rng-pci"),
    ]  # fmt: skip
    return Variant(
        "q35_debian", "QEMU q35, SeaBIOS, Debian's kernel and systemd", argv, {"PATH": "/usr/bin"}, is_long=True
    )


def text(variant: Variant, number: str, events: tuple[str, ...] = (), *, until: int = 0) -> bytes:
    """The file of /plan for one run; machine.c says what its lines mean."""
    lines = [
        f"name {variant.name}.{number}",
        *([f"until {until}"] if until else []),
        *([f"filter {variant.filter}"] if variant.filter else []),
        *(f"trace {event}" for event in events),
        *(f"env {name}={value}" for name, value in variant.env.items()),
        *(f"arg {word}" for word in variant.argv),
    ]
    return "\n".join(lines).encode() + b"\n"


def starts(kinds: list[Variant]) -> dict[str, bytes]:
    """The files of /plan for one start of each, without a trace; the first one is started before to warm KVM up."""
    runs = [text(kinds[0], "warm"), *(text(kind, "0") for kind in kinds)]
    return {f"plan/{at:03}": run for at, run in enumerate(runs)}


def files(kinds: list[Variant], repeat: int, long_repeat: int) -> dict[str, bytes]:
    """The files of /plan: a start of the first kind to warm KVM up, `repeat` rounds, and one with a trace.

    The long kind has a part in the first `long_repeat` rounds only. Some of its starts fail by a fault of the emulated
    processor, so it has as many spare ones.
    """
    runs = [text(kinds[0], "warm")]
    for number in range(repeat):
        runs += [text(kind, str(number)) for kind in kinds if number < long_repeat or not kind.is_long]
    left = range(long_repeat, 2 * long_repeat)
    runs += [text(kind, str(number), until=long_repeat) for kind in kinds if kind.is_long for number in left]
    runs += [text(kind, "trace", EXITS) for kind in kinds]
    return {f"plan/{at:03}": run for at, run in enumerate(runs)}
