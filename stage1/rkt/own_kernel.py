# SPDX-License-Identifier: Apache-2.0
"""A pod of rkt's whose one app's image brings a kernel of its own: its VM boots that, and has no agent. Called by
stage1/entry.

The launcher passes the kernel's serial port on as the app's output, and writes the app's status at the end
(images/launcher). docs/design/own-kernels.md has the reasons.
"""

import _socket

from stage1 import engine, own
from stage1.engine import Host
from stage1.errors import KernelError
from stage1.linux import beneath
from stage1.pod import own_kernel
from stage1.pod.network import PodNetwork
from stage1.pod.own_kernel import OwnKernel
from stage1.pod.own_values import Asked
from stage1.rkt import directory, machine, sizing
from stage1.rkt.loader import RktPod
from stage1.rkt.manifest import Entry
from stage1.rootfs import owners
from stage1.vm import launch_spec, record
from stage1.vm.launch_spec import LaunchSpec
from stage1.vm.record import Record
from stage1.vm.spec import Hypervisor, VmSpec, nics
from stage1.vm.vmm import VmProcess

_CODES = {own_kernel.POWEROFF: "p", own_kernel.DEBUG_EXIT: "d", own_kernel.SOLO5_EXIT: "s", own_kernel.HERMIT_EXIT: "h"}
_OR_RESET = "r"
"""The end of such a kernel, for the launcher (images/launcher/spec.h)."""
_BUTTON = b"button"
_POWER_DOWN = b'{"execute":"qmp_capabilities"}\n{"execute":"system_powerdown"}\n'


def prepare(pod: RktPod, pod_dir: str, *, network: PodNetwork | None, netns: str) -> LaunchSpec:
    """Like `machine.prepare`, for such a pod; also raises BadRequest, NotFound and Unsupported because of its image."""
    entry = pod.own_kernel
    assert entry
    kernel = own_kernel.read(dict(entry.kernel), image=f"of {entry.where}")
    assert kernel
    environment = tuple(f"{name}={value}" for name, value in entry.env)
    boot = own.Boot(kernel, f"apps/{entry.name}", Asked(arguments(entry, kernel), environment))
    host = machine.host(pod_dir, pod.pod.hypervisor)._replace(
        scratch_mib=sizing.scratch_mib(dict(pod.annotations)), state_dir=pod_dir
    )
    prepared = engine.prepare(pod.pod._replace(scratch_mib=0, profile="", journal=""), host._replace(scratch_mib=0))
    try:
        assert isinstance(prepared.vm, VmSpec)
        _show(pod, prepared.vm, pod_dir=pod_dir)
        vm = _vm(pod, host, boot=boot, network=network)._replace(
            ids=prepared.vm.ids, cgroups=prepared.vm.cgroups, netns=netns, nics=own.devices(kernel, nics(network))
        )
        status = f"{directory.writable_status_dir(pod_dir)}/{entry.name}"
        return launch_spec.of(vm, interactive=False, kernel=f"{_code(kernel, vm.hypervisor)}{status}")
    except BaseException:
        machine.undo(prepared.directory)
        raise


def arguments(entry: Entry, kernel: OwnKernel) -> tuple[str, ...]:
    """The kernel's arguments, unless its label has them, or given otherwise: without its own path."""
    if entry.argv == entry.image_argv and kernel.arguments:
        return ()
    return entry.argv[entry.argv[0] == kernel.path :]


def _code(kernel: OwnKernel, hypervisor: Hypervisor) -> str:
    may_reset = kernel.may_reset(has_power_off=own.has_power_off(kernel, hypervisor))
    return _OR_RESET if may_reset else _CODES[kernel.exit]


def _show(pod: RktPod, vm: VmSpec, *, pod_dir: str) -> None:
    """The app's root among the layers, with owners that the VMM sees, and what later programs have to know."""
    place = machine.place(pod.pod.id)
    (app,) = pod.apps
    owners.keep_plain(place, vm.ids)
    with beneath.Root(place, one_mount=True) as root:
        root.link(machine.DATA, directory.data(pod_dir))
        root.make_directory(machine.APPS, 0o755)
        root.write(engine.CONSOLE, b"")
        record.write(place, Record(machine.launcher(place), vm.ids))
    machine.show(place, pod, source=app.root, at=f"layers/apps/{app.name}")


def _vm(pod: RktPod, host: Host, *, boot: own.Boot, network: PodNetwork | None) -> VmSpec:
    place = machine.place(pod.pod.id)
    boot_files = own.find(place, pod.pod, host=host, boot=boot)
    boot_files = own.carrying(pod.pod, host, boot=boot, boot_files=boot_files, network=network)
    vm, disk = own.vm(pod.pod, host, boot=boot, boot_files=boot_files, network=network), ""
    if boot_files.block:
        disk = f"{host.state_dir}/scratch/{pod.pod.id}.img"
        own.copy_block(boot_files.block, disk, directory=place)
    assert vm.own
    vm.own.features = vm.own.features._replace(has_launcher=vm.hypervisor.boots_all_kernels)
    has_button = own.has_power_off(boot.kernel, vm.hypervisor)
    with beneath.Root(place, one_mount=True) as root:
        root.write(machine.OWN_KERNEL, _BUTTON if has_button else b"")
    return vm._replace(scratch=disk)


def has_button(place: str) -> bool:
    """Whether the pod's machine has a power button."""
    with beneath.Root(place) as root:
        return root.read(machine.OWN_KERNEL) == _BUTTON


def power_down(place: str, pod: VmProcess, *, limit_s: float) -> bool:
    """Press the power button and wait for the end, at most so long; whether it came."""
    monitor = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with beneath.Socket(f"{place}/{own.MONITOR}") as address:
            monitor.connect(address)
        monitor.send(_POWER_DOWN)
        return pod.wait(limit_s)
    except (OSError, KernelError):
        return not pod.alive()
    finally:
        monitor.close()
