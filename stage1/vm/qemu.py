# SPDX-License-Identifier: Apache-2.0
"""QEMU: a VM as a command line of its microvm machine, and what else is its own. For `hypervisors.py` and the golden
tests. Pure, but for `find` and the startup check.

The kernel is the uncompressed vmlinux, entered by PVH. All devices are virtio-mmio, without PCI and ACPI; the
machine's timers stay at their defaults, since without pit, pic or rtc it hangs now and then. `-no-reboot`
with the guest's `reboot=t` makes the end of the guest the end of QEMU.
"""

from stage1.errors import BadRequest
from stage1.linux import host
from stage1.linux.host import Program
from stage1.linux.process import PidHandle
from stage1.vm import kernel_line, own_machine, startup
from stage1.vm.limits import CACHE_MIB
from stage1.vm.spec import (
    CONSOLE_FD,
    HOME,
    LISTENER_FD,
    MONITOR_FD,
    QMP,
    QMP_FD,
    TAP_FD,
    VOLUMES,
    VOLUMES_FD,
    Hypervisor,
    Nic,
    SerialLink,
    Share,
    VmSpec,
    VsockLink,
    check,
)
from stage1.vm.template import RAM_FD, STATE_FD, STATE_SET, Template

# Each has to be named. elevateprivileges denies setuid and its like, which 9p with security_model=none never
# calls: it changes owners by chown.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

# What the guest frees goes back to the host, in blocks of at least so many pages (a power of two). The kernel's own
# choice, 4 MiB, is of no use to small guests: hardly anything that a container frees is in one piece.
BALLOON = "virtio-balloon-device,free-page-reporting=on"
# QEMU can't give back the pages of a file that it may not write to, and would complain of each; unless the memory is no
# file's for it (images/qemu-shim).
_SILENT_BALLOON = "virtio-balloon-device"
# A page that a copy has given back has the template's content afterwards, where others have zeros. A guest's kernel to
# which free pages are zeros (init_on_free) would tell by this feature, and without it reports none.
COPY_BALLOON = f"{BALLOON},page-poison=off"
REPORTED = "page_reporting.page_reporting_order=5"

# Without a control queue the device lets everything through, as kvmtool's does: the guest's kernel sorts out what is
# not for it, and the tap gets nothing but what is for the pod. Else each change of an address is a command to QEMU, for
# whose answer the guest spins. All that need the queue must be named, or the guest refuses the device.
_NO_CONTROL = ",".join(
    f"{feature}=off"
    for feature in "ctrl_vq ctrl_rx ctrl_rx_extra ctrl_vlan ctrl_mac_addr ctrl_guest_offloads guest_announce".split()
)

# A disk that can't be written or read is the guest's to know of, as with a real one. QEMU's own choice for a full file
# system is to stop the whole machine, and nothing would continue it.
_ERRORS = "werror=report,rerror=report"

# Port 0 is not used, the agent's is 1; then that for volumes, and a console's. Each port has two queues, and QEMU's own
# choice is 31 ports.
_SERIAL_BUS = "virtio-serial-device,max_ports=3"

_MODELS = (
    *("virtio-blk-device", "virtio-9p-device", "virtio-serial-device", "virtio-net-device", "virtio-rng-device"),
    *("virtio-balloon-device", "vhost-vsock-device"),
)
PROGRAM = "qemu-system-x86_64"
TRANSPORTS = 8
"""Of a microvm without ACPI."""
# QEMU appends " virtio_mmio.device=512@0xfeb00000:12" for each device.
_MMIO_ARGUMENT_BYTES = 40
EMULATED_CPU = "max,-erms,-fsrm,-fsrs"
"""All that TCG has, but for the hints that string instructions are fast by bytes: it does them one by one, so a guest's
kernel that clears and copies memory by words takes an eighth of the steps.
"""


def argv(vm: VmSpec) -> list[str]:
    """The whole command line. Raises BadRequest when a value of `vm` can't be put into one."""
    check(vm)
    if vm.own:
        return own_machine.argv(vm, sandbox=_SANDBOX, errors=_ERRORS)
    devices = _on_pci(_devices(vm)) if vm.is_stock else _devices(vm)
    if (needed := _transports(devices)) > TRANSPORTS and not vm.is_stock:
        text = f"the pod needs {needed} virtio devices and QEMU's microvm has {TRANSPORTS}: use fewer networks"
        raise BadRequest(text)
    return [
        vm.binary,
        *("-name", vm.name),
        *(("-sandbox", _SANDBOX) if vm.sandbox else ()),
        *("-machine", _machine(vm)),
        *("-accel", f"tcg,tb-size={CACHE_MIB}" if vm.accel == "tcg" else vm.accel),
        *("-cpu", "host" if vm.accel == "kvm" else EMULATED_CPU),
        *("-m", str(vm.memory_mib)),
        *_template(vm),
        *("-smp", str(vm.vcpus)),
        *("-kernel", vm.kernel),
        *("-initrd", vm.initramfs),
        *("-append", kernel_command_line(vm, devices.count("-device"))),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none"),
        *_console(vm),
        *devices,
        *_monitor(vm),
    ]


def environment(vm: VmSpec) -> dict[str, str]:
    """The minimal environment of QEMU, and what images/qemu-shim reads."""
    minimal = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": HOME if vm.jailer else vm.run_dir}
    if not vm.preloaded:
        return minimal
    if not vm.template:
        return {**minimal, "LD_PRELOAD": vm.memory_shim, "CLEARPOD_LOADS": str(vm.memory_mib << 20)}

    return {**minimal, "LD_PRELOAD": vm.memory_shim, "CLEARPOD_RAM": f"{RAM_FD}:{vm.memory_mib << 20}"}


def kernel_command_line(vm: VmSpec, devices: int) -> str:
    """The kernel command line of a VM with so many virtio devices. Raises BadRequest if it is too long."""
    # microvm has no PCI; without this argument the kernel logs an error.
    machine = (REPORTED, *kernel_line.STOCK) if vm.is_stock else ("pci=off", REPORTED, *kernel_line.SPEED)
    line = ["console=ttyS0", "panic=-1", "reboot=t", *machine]
    if vm.accel == "tcg":
        # TCG has no TSC-deadline timer, and to calibrate the other one takes 200 ms.
        line.append("nolapic_timer")
    line += kernel_line.for_agent(vm, system="/dev/vda", scratch="/dev/vdb")
    if vm.window_bytes:
        line.append(f"clearpod.window={'/dev/vdc' if vm.scratch else '/dev/vdb'}")
    return kernel_line.join([*line, *vm.kernel_arguments], added_bytes=devices * _MMIO_ARGUMENT_BYTES)


def _devices(vm: VmSpec) -> list[str]:
    argv = _disk("system", f"{vm.system_image},readonly=on")
    if vm.scratch:
        # A disk that dies with the pod need not be flushed; and blocks that the guest frees are returned.
        freed = "" if vm.is_scratch_kept else ",discard=unmap,detect-zeroes=unmap"
        cache = "writeback" if vm.is_scratch_lasting else "unsafe"
        argv += _disk("scratch", f"{vm.scratch},cache={cache}{freed}")
    if vm.window_bytes:
        argv += _window(vm.window_bytes)
    for share in vm.shares:
        argv += _share(share)
    argv += _link(vm)
    if vm.console_attached:
        argv += _apps_console(vm.link)
    for number, nic in enumerate(vm.nics):
        argv += _nic(number, nic, by_descriptor=bool(vm.jailer))
    # A guest with many networks has but its processor's random numbers and keeps its memory, rather than not to start.
    for device in ("virtio-rng-device", _balloon(vm)):
        if vm.is_stock or _transports(argv) < TRANSPORTS:
            argv += ["-device", device]
    return argv


def _machine(vm: VmSpec) -> str:
    machine = "q35,vmport=off" if vm.is_stock else "microvm"
    return f"{machine},acpi=off{',memory-backend=ram' if vm.template else ''}"


def _on_pci(argv: list[str]) -> list[str]:
    """The same devices as functions of PCI, which need no firmware of their own."""
    models = {model: model.replace("-device", "-pci") for model in _MODELS}
    moved = []
    for word in argv:
        model, _, options = word.partition(",")
        rom = ["romfile="] if model == "virtio-net-device" else []
        moved.append(",".join([models[model], *rom, *([options] if options else [])]) if model in models else word)
    return moved


def _balloon(vm: VmSpec) -> str:
    """The device by which the guest gives memory back, if it can. A template's maker has that of the copies."""
    if not vm.template:
        return BALLOON
    return COPY_BALLOON if vm.memory_shim else _SILENT_BALLOON


def _transports(argv: list[str]) -> int:
    """How many of microvm's virtio transports the devices use; ports are on the serial device's."""
    return argv.count("-device") - sum(word.startswith("virtserialport,") for word in argv)


def _template(vm: VmSpec) -> list[str]:
    """The options for the guest's memory, and the monitor by which a copy is loaded."""
    if not vm.template:
        return []

    return [
        *("-object", _memory(vm, vm.template)),
        *("-chardev", f"socket,id=monitor,fd={MONITOR_FD}"),
        *("-mon", "chardev=monitor,mode=control"),
        *(() if vm.template.is_made else ("-add-fd", f"fd={STATE_FD},set={STATE_SET}", "-incoming", "defer")),
    ]


def _memory(vm: VmSpec, template: Template) -> str:
    """The guest's memory. With the shim it is anonymous as far as QEMU knows, and in fact the template's file."""
    size = f"id=ram,size={vm.memory_mib}M"
    if vm.memory_shim and not template.is_made:
        return f"memory-backend-ram,{size},share=off"
    access = "share=on" if template.is_made else "share=off,readonly=on,rom=off"
    return f"memory-backend-file,{size},mem-path={template.memory},{access}"


def _console(vm: VmSpec) -> list[str]:
    """The options for the console of the guest's kernel. The apps of an autonomous pod then have their own port."""
    if not vm.console_attached:
        return ["-serial", "stdio"]
    # A descriptor by a name that QEMU takes for a file's.
    handed = ["-add-fd", f"fd={CONSOLE_FD},set=1"] if vm.jailer else []
    return [
        *handed,
        *("-chardev", f"file,id=kernel,path={'/dev/fdset/1' if handed else console_log(vm)},append=on"),
        *("-serial", "chardev:kernel"),
        *("-chardev", "stdio,id=console,signal=off"),
    ]


def console_log(vm: VmSpec) -> str:
    """The file with what the guest's kernel has written."""
    return f"{vm.run_dir}/console.log"


def _disk(name: str, file: str) -> list[str]:
    return [
        *("-drive", f"id={name},if=none,format=raw,{_ERRORS},file={file}"),
        *("-device", f"virtio-blk-device,drive={name}"),
    ]


def _window(size: int) -> list[str]:
    """A disk of zeros until it has another medium (medium.py), which has the same size."""
    return [
        *("-blockdev", f"driver=null-co,node-name=empty,size={size},read-zeroes=on,read-only=on"),
        *("-device", f"virtio-blk-device,drive=empty,id=window,{_ERRORS}"),
    ]


def _monitor(vm: VmSpec) -> list[str]:
    """The options for the monitor of the VM's whole life: in its jail it has the socket, and no path to it."""
    if not vm.window_bytes:
        return []
    where = f"fd={QMP_FD}" if vm.jailer else f"path={vm.run_dir}/{QMP}"
    return [
        *("-chardev", f"socket,id=qmp,{where},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *(("-incoming", "defer", "-S") if vm.is_resumed else ()),
    ]


def _share(share: Share) -> list[str]:
    read_only = ",readonly=on" if share.read_only else ""
    # remap: below one share lie many file systems, whose inode numbers would otherwise collide in the guest.
    options = f"id={share.tag},path={share.path},security_model=none,multidevs=remap{read_only}"
    return [
        *("-fsdev", f"local,{options}"),
        *("-device", f"virtio-9p-device,fsdev={share.tag},mount_tag={share.tag}"),
    ]


def _link(vm: VmSpec) -> list[str]:
    if isinstance(vm.link, VsockLink):
        return ["-device", f"vhost-vsock-device,guest-cid={vm.link.cid}"]
    where = f"fd={LISTENER_FD}" if vm.jailer else f"path={vm.link.socket}"
    return [
        *("-chardev", f"socket,id=link,{where},server=on,wait=off"),
        *("-device", _SERIAL_BUS),
        *("-device", "virtserialport,chardev=link,name=clearpod.agent"),
        *_volumes_port(vm),
    ]


def _volumes_port(vm: VmSpec) -> list[str]:
    """The port for volumes of the host, whose server comes with the first of them (volume_server.py)."""
    if not vm.has_volumes_port:
        return []
    where = f"fd={VOLUMES_FD}" if vm.jailer else f"path={vm.run_dir}/{VOLUMES}"
    return [
        *("-chardev", f"socket,id=volumes,{where},server=on,wait=off"),
        *("-device", "virtserialport,chardev=volumes,name=clearpod.volumes"),
    ]


def _apps_console(link: SerialLink | VsockLink) -> list[str]:
    bus = ["-device", _SERIAL_BUS] if isinstance(link, VsockLink) else []
    return [*bus, "-device", "virtserialport,chardev=console,name=clearpod.console"]


def _nic(number: int, nic: Nic, *, by_descriptor: bool) -> list[str]:
    where = f"fd={TAP_FD + number}" if by_descriptor else f"ifname={nic.tap},script=no,downscript=no"
    return [
        *("-netdev", f"tap,id=nic{number},{where}"),
        *("-device", f"virtio-net-device,netdev=nic{number},mac={nic.mac},{_NO_CONTROL}"),
    ]


def find() -> Program:
    """The emulator on PATH, and whether it was built with seccomp, which its option -sandbox needs."""
    path = host.which(PROGRAM)
    if not path:
        return Program(lack=f"{PROGRAM} is not on PATH", remedy="apt install qemu-system-x86")
    return Program(path, sandbox=host.has_text(path, b"libseccomp.so"))


class _Qemu(Hypervisor):
    name, title = "qemu", "QEMU"
    kernel, filter, memory_shim = "vmlinux", "seccomp-qemu.bpf", "qemu-shim.so"
    can_emulate = can_confine_itself = has_balloon = has_templates = tells_files_apart = True
    opens_console = boots_all_kernels = True
    # Of our machines: a microvm's, a pc's and a q35's BIOS, and what loads each format of kernels.
    firmware = (
        *("bios-microvm.bin", "bios-256k.bin", "bios.bin", "qboot.rom", "kvmvapic.bin", "pvh.bin"),
        *("linuxboot.bin", "linuxboot_dma.bin", "multiboot.bin", "multiboot_dma.bin"),
    )
    modules = ("qemu/accel-tcg-x86_64.so", "qemu/accel-tcg-i386.so")

    def find(self) -> Program:
        return find()

    def is_program(self, name: str) -> bool:
        return name.startswith("qemu-system-")

    def argv(self, vm: VmSpec) -> list[str]:
        return argv(vm)

    def environment(self, vm: VmSpec) -> dict[str, str]:
        return environment(vm)

    def listener(self, vm: VmSpec) -> tuple[str, bool] | None:
        """Return the socket of the agent's link, or of QEMU's monitor where there is no agent."""
        if vm.own:
            return (vm.own.monitor, False)
        return (vm.link.socket, False) if isinstance(vm.link, SerialLink) and vm.link.socket else None

    def has_ended(self, handle: PidHandle, watch_s: float) -> bool:
        return startup.ends_within(handle, watch_s)


HYPERVISOR = _Qemu()
