# SPDX-License-Identifier: Apache-2.0
"""A pod that boots a kernel out of an image in place of our guest: what is made, checked and removed for that.

Called by the daemon and `clearpod run` in worker threads. The pod is the engine's: directory, network, ids and cgroups
stay, whatever VM is in it, and `engine.clean_up` undoes all. docs/design/own-kernels.md has the reasons.
"""

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from stage1 import engine, machine, placement
from stage1.engine import Host, Prepared
from stage1.errors import BadRequest, Unsupported
from stage1.guest.numbers import CpuStats, InterfaceStats, MemoryStats, PodStats
from stage1.linux import beneath, files, idmap, mount
from stage1.linux.idmap import Extent
from stage1.linux.libc import Guard
from stage1.pod import ids as id_ranges
from stage1.pod import kernel_image, own_command_line, own_kernel, own_values
from stage1.pod.model import IdMap, Pod
from stage1.pod.network import PodNetwork
from stage1.pod.own_kernel import OwnKernel
from stage1.rootfs import export, own_files, own_initrd, owners, scratch
from stage1.rootfs.share import ImageFiles
from stage1.vm import record, slots
from stage1.vm.spec import QMP, VOLUMES, Features, Hypervisor, Nic, OwnMachine, SerialLink, Share, VmSpec
from stage1.vm.usage import usage

SERIAL, MONITOR = "serial.log", "monitor.sock"
"""Files in the pod's directory: the output of the kernel's serial port, and the socket of its QEMU."""
_OF_GUEST = ("window.json", "dax.sock", "agent.sock", QMP, VOLUMES)
OWN_INIT = "own-init"
"""The program among the guest's files that an initrd gets (images/own-init)."""
MIB = 1 << 20
GUEST_SHUTDOWN, GUEST_RESET, GUEST_PANIC = "guest-shutdown", "guest-reset", "guest-panic"
REASONS = (GUEST_SHUTDOWN, GUEST_RESET, GUEST_PANIC)
"""Reasons for QEMU's end as its monitor names them: the guest has powered off or reported its code, reset, or
panicked.
"""
_LOW_MEMORY_BYTES = 1 << 31
"""Of a VM with more memory: what all of QEMU's machines have below the addresses of their devices."""


class Boot(NamedTuple):
    """One start of a kernel: it is in the image that is mounted in the pod's share as `lower`."""

    kernel: OwnKernel
    lower: str
    asked: own_values.Asked = own_values.Asked()


class BootFiles(NamedTuple):
    """Paths on the host of what is booted, without symbolic links; empty where the image has no such file."""

    kernel: str
    initrd: str = ""
    block: str = ""


def add_image(directory: str, image: ImageFiles) -> str:
    """Put the image into the layers export, with owners that any VMM of this pod sees; its name there. Raises as
    `export.add_image`.
    """
    extents, path = _ids(directory), f"{directory}/{owners.OF_KERNEL}"
    if not extents:
        return export.add_image(directory, image, ids=lambda: -1)
    if not mount.is_mounted(path):
        files.unlink(path)  # left by a process that was killed before it could mount it
        idmap.keep(path, extents)
    with Guard("open", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return export.add_image(directory, image, ids=lambda: fd)
    finally:
        os.close(fd)


def _ids(directory: str) -> Sequence[Extent]:
    """Return the id mapping of the pod's running VMM, else that of its next one; empty where VMMs have no user
    namespace.
    """
    if entry := record.read(directory):
        return entry.ids
    first = slots.find(directory)
    return () if first is None else id_ranges.extents(first, IdMap())


def find(directory: str, pod: Pod, *, host: Host, boot: Boot) -> BootFiles:
    """The kernel's files, if they match the image's labels and this pod can boot them.

    Raises BadRequest, or NotFound for a missing one, Unsupported for what this node's hypervisor can't do.
    """
    kernel = boot.kernel

    def examine_kernel(fd: int, size: int) -> None:
        facts = _kernel(fd, size, path=kernel.path)
        _require(host.choice.hypervisor, facts.kind, path=kernel.path, machine=kernel.machine)
        _require_memory(facts, pod, path=kernel.path)

    def examine_block(fd: int, size: int) -> None:
        own_files.require_raw(fd, path=kernel.block)

    with beneath.Root(directory) as own:
        root = own.open_directory(f"share/layers/{boot.lower}")
    try:
        path, size = own_files.resolved(root, kernel.path, what="kernel", examine=examine_kernel)
        initrd, initrd_bytes = own_files.resolved(root, kernel.initrd, what="initrd")
        block, block_bytes = own_files.resolved(root, kernel.block, what="block image", examine=examine_block)
    finally:
        os.close(root)
    if size + initrd_bytes > pod.memory_mib * MIB // 2:
        raise BadRequest(
            f"the kernel {kernel.path} and its initrd have {size + initrd_bytes} bytes, too many for a VM with "
            f"{pod.memory_mib} MiB of memory; give the pod more"
        )
    most_mib = pod.scratch_mib or host.scratch_mib
    if block_bytes > most_mib * MIB:
        raise BadRequest(
            f"the block image {kernel.block} has {block_bytes} bytes, and the pod's disk may have {most_mib} MiB"
        )
    return BootFiles(path, initrd, block)


def _kernel(fd: int, size: int, *, path: str) -> kernel_image.Kernel:
    def read(at: int, count: int) -> bytes:
        return os.pread(fd, count, at) if 0 <= at < size else b""

    return kernel_image.read_kernel(read, size, title=f"the kernel {path} of the image")


def _require_memory(kernel: kernel_image.Kernel, pod: Pod, *, path: str) -> None:
    """Raise BadRequest for a kernel with a load address at which the VM has no memory."""
    if kernel.end > _LOW_MEMORY_BYTES:
        raise BadRequest(
            f"the kernel {path} is loaded into memory up to {kernel.end:#x}, where a VM has devices; link it to an "
            f"address below {_LOW_MEMORY_BYTES:#x}"
        )
    if kernel.end > pod.memory_mib * MIB:
        raise BadRequest(
            f"the kernel {path} is loaded into memory up to {kernel.end:#x}, and the VM has {pod.memory_mib} MiB; give "
            "the pod more"
        )


def _require(hypervisor: Hypervisor, kind: str, *, path: str, machine: str) -> None:
    """Raise Unsupported when that can't be booted there."""
    if not hypervisor.boots_all_kernels and (kind != kernel_image.BZIMAGE or machine == own_kernel.MICROVM):
        raise Unsupported(
            f"the kernel {path} is of the kind {kind} for a {machine}, and {hypervisor.title}, which this node uses, "
            "boots a bzImage with virtio over PCI only; choose another one by vm.hypervisor"
        )
    if kind == kernel_image.MULTIBOOT and machine not in (own_kernel.Q35, own_kernel.PC):
        raise BadRequest(
            f"the kernel {path} is of the kind {kind}, which a {machine} can't boot: it has no firmware for that; set "
            f"{own_kernel.OURS}machine to {own_kernel.Q35} or {own_kernel.PC}"
        )


def check(pod: Pod, host: Host, *, boot: Boot, network: PodNetwork | None) -> None:
    """Raise what `prepare` would, for what the image and the pod ask for."""
    directory = engine.pod_directory(host, pod.id)
    boot_files = find(directory, pod, host=host, boot=boot)
    vm(pod, host, boot=boot, boot_files=boot_files, network=network)
    if line(pod, boot, network=network).carried:
        own_initrd.require_archive(boot_files.initrd, title=boot.kernel.initrd)


def end_guest(directory: str) -> None:
    """Kill the pod's guest and remove what was the guest's alone. Idempotent. Raises VmFailed, KernelError."""
    running = engine.find_vm(directory)
    if running is not None:
        running.kill()
    engine.end_rest(directory)
    scratch.remove(directory)
    with beneath.Root(directory) as own:
        for name in _OF_GUEST:
            own.unlink(name)


def prepare(pod: Pod, host: Host, *, boot: Boot, network: PodNetwork | None) -> Prepared:
    """All that `engine.boot` needs. Undo: `engine.end_rest`, and by the next `prepare`. Raises as `find`, `carrying`
    and `line`.
    """
    directory = engine.pod_directory(host, pod.id)
    boot_files = carrying(pod, host, boot=boot, boot_files=find(directory, pod, host=host, boot=boot), network=network)
    disk = f"{host.state_dir}/scratch/{pod.id}.img" if boot_files.block else ""
    spec = machine.with_network(
        vm(pod, host, boot=boot, boot_files=boot_files, network=network), pod, host=host, network=network
    )
    assert isinstance(spec, VmSpec)
    spec = spec._replace(nics=devices(boot.kernel, spec.nics))
    with beneath.Root(directory) as own:
        own.unlink(SERIAL)
        own.unlink(MONITOR)
    if disk:
        copy_block(boot_files.block, disk, directory=directory)
    spec, note = placement.add(spec._replace(scratch=disk), pod, host=host, directory=directory)
    return Prepared(pod, directory, spec, b"", network, note)


def line(pod: Pod, boot: Boot, *, network: PodNetwork | None) -> own_values.Line:
    """The kernel's command line, and what its initrd has to carry. Raises as `own_command_line.compose`."""
    at = own_values.address(network)
    return own_command_line.compose(boot.kernel, at, asked=boot.asked, hostname=pod.hostname)


def carrying(pod: Pod, host: Host, *, boot: Boot, boot_files: BootFiles, network: PodNetwork | None) -> BootFiles:
    """The same files, with an initrd of the pod's own where it has to carry something. Undo: `own_initrd.remove`.
    Raises as `line`, BadRequest, NotFound, NoSpace, KernelError.
    """
    carried = line(pod, boot, network=network).carried
    if not carried:
        return boot_files
    own_initrd.require_archive(boot_files.initrd, title=boot.kernel.initrd)
    target, program = f"{host.state_dir}/scratch/{pod.id}.initrd", machine.artefact(host, OWN_INIT)
    directory = engine.pod_directory(host, pod.id)
    own_initrd.make(boot_files.initrd, target, program=program, carried=carried.data, directory=directory)
    return boot_files._replace(initrd=target)


def vm(pod: Pod, host: Host, *, boot: Boot, boot_files: BootFiles, network: PodNetwork | None) -> VmSpec:
    """The VM that boots it, without devices, disk and ids. Raises as `line`."""
    directory, kernel, choice = engine.pod_directory(host, pod.id), boot.kernel, host.choice
    return VmSpec(
        name=f"clearpod-{pod.id[:13]}",
        hypervisor=choice.hypervisor,
        binary=choice.binary,
        run_dir=directory,
        kernel=boot_files.kernel,
        initramfs=boot_files.initrd,
        system_image="",
        memory_mib=pod.memory_mib,
        vcpus=pod.online_vcpus or pod.vcpus,
        link=SerialLink(""),
        shares=(Share("layers", f"{directory}/share/layers", read_only=True),),
        accel=choice.accel,
        sandbox=choice.sandbox,
        jailer=f"{host.guest_dir}/{machine.JAILER}",
        filter=f"{host.guest_dir}/{choice.hypervisor.filter}",
        own=OwnMachine(
            kernel.machine,
            line(pod, boot, network=network).text,
            serial=f"{directory}/{SERIAL}",
            monitor=f"{directory}/{MONITOR}",
            features=Features(kernel.has_debug_exit, is_modern=kernel.virtio == own_kernel.MODERN),
        ),
    )


def devices(kernel: OwnKernel, nics: tuple[Nic, ...]) -> tuple[Nic, ...]:
    """Return the network devices that the kernel gets: some, as Solo5's, do not boot with one too many."""
    return () if kernel.network == own_kernel.ABSENT else nics


def copy_block(source: str, target: str, *, directory: str) -> None:
    """The image is read-only and everybody's; the kernel gets a copy of its own, anew at each start. Raises NoSpace,
    KernelError.
    """
    scratch.note(directory, scratch.LINK, path=target)
    scratch.remove(directory)
    scratch.copy_sparse(source, target)


def has_power_off(kernel: OwnKernel, hypervisor: Hypervisor) -> bool:
    """Whether its machine can be powered off by what is in it; else a reset is its only end."""
    return hypervisor.boots_all_kernels and kernel.machine != own_kernel.MICROVM


def exit_code(kernel: OwnKernel, status: int | None, *, reason: str, has_power_off: bool) -> int | None:
    """The container's exit code, of a VMM that was not killed: `status` is the VMM's own, None if it is unknown, and
    `reason` the reported reason (`REASONS`) or empty. None: it is unknown.
    """
    if not status and reason == GUEST_PANIC:
        return own_kernel.PANIC_CODE
    if not status and reason == GUEST_RESET:
        return 0 if kernel.may_reset(has_power_off=has_power_off) else own_kernel.RESET_CODE
    if status is None:
        return 0 if reason == GUEST_SHUTDOWN and not kernel.has_debug_exit else None
    return kernel.code(status >> 1) if kernel.has_debug_exit and status & 1 else status


def numbers(directory: str, pid: int, *, devices: Sequence[str] = ()) -> PodStats:
    """The VM's usage on the host, since there is no agent to ask. `devices` are the pod's taps."""
    at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    taken = usage(pid, directory)
    memory = MemoryStats(usage=taken.pss_bytes, anonymous=taken.pss_bytes)
    cpu = CpuStats(usage_us=taken.cpu_ms * 1000)
    for path in placement.cgroups(directory):
        cpu, memory = _of_cgroup(path, cpu=cpu, memory=memory)
    return PodStats(at_ns, cpu, memory, _threads(pid), _interfaces(pid, devices))


def _of_cgroup(path: str, *, cpu: CpuStats, memory: MemoryStats) -> tuple[CpuStats, MemoryStats]:
    """More exact figures, if the VMM has them: its memory without what the kernel can easily reclaim."""
    stat = _table(f"{path}/cpu.stat")
    if "usage_usec" in stat:
        cpu = CpuStats(stat["usage_usec"], stat.get("user_usec", 0), stat.get("system_usec", 0))
    for file in ("memory.current", "memory.usage_in_bytes"):
        try:
            used = int(files.read(f"{path}/{file}"))
        except (OSError, ValueError):
            continue
        parts = _table(f"{path}/memory.stat")
        inactive = parts.get("inactive_file", parts.get("total_inactive_file", 0))
        memory = MemoryStats(usage=used, inactive_file=inactive, anonymous=parts.get("anon", parts.get("rss", 0)))
    return cpu, memory


def _table(path: str) -> dict[str, int]:
    try:
        lines = files.read(path).decode().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _interfaces(pid: int, taps: Sequence[str]) -> tuple[InterfaceStats, ...]:
    """The VMM is in the pod's network namespace; what its tap sends the guest receives."""
    try:
        text = files.read(f"/proc/{pid}/net/dev").decode()
    except OSError:
        return ()
    rows = {name.strip(): row.split() for name, _, row in (line.partition(":") for line in text.splitlines()) if row}
    interfaces = []
    for number, tap in enumerate(taps):
        if len(row := rows.get(tap, [])) >= 16:
            sent, received = [int(row[i]) for i in (0, 1, 2, 3)], [int(row[i]) for i in (8, 9, 10, 11)]
            interfaces.append(InterfaceStats(f"eth{number}", *received, *sent))
    return tuple(interfaces)
