# SPDX-License-Identifier: Apache-2.0
"""The machine that a pod becomes on this host: its hypervisor, size, devices, files of the guest. Called by the engine.

Looks at what is there and makes nothing, but for a place among the host's cgroups.
"""

import os
from typing import NamedTuple

from stage1.errors import BadRequest, NotFound
from stage1.linux import cgroup, podcgroup, scope, tsc, vsock
from stage1.net.settings import Settings, netns_path
from stage1.pod.model import KERNEL_OF_IMAGE, LEAST_MEMORY_MIB, Pod
from stage1.pod.network import PodNetwork
from stage1.vm import kernels, profiles
from stage1.vm.choose import Choice
from stage1.vm.host import HostPod
from stage1.vm.slots import Range
from stage1.vm.spec import Dax, DaxImage, SerialLink, Share, VmSpec, VsockLink, can_be_preloaded, nics
from stage1.vm.vmm import AGENT

MIB = 1 << 20
DISK_WINDOW_BYTES = 1 << 40
"""Of the disk by which images come to a pod that can be suspended. It takes nothing as long as it is empty."""
GUEST_HZ = 100
"""Ticks of our kernels in a second, CONFIG_HZ."""
JAILER, VOLUME_SERVER = "jailer", "volume-server"
SUSPEND = "clearpod.io/suspend"
LASTING_DISK = "clearpod/disk.img"
"""Of a pod with volumes on its disk, below its `kubelet_dir`."""


class Host(NamedTuple):
    """What all pods of this host share. Directories are absolute.

    `scratch_mib` is each pod's scratch disk; with 0, writable layers are in guest memory. Without `network` pods have
    only their loopback. `crun` is for pods that have namespaces of the host; empty: there are none.
    `ids` are the host's ids for VMMs; None: a VMM is the user that we are. VMMs are in cgroups of their own, with
    limits, below `cgroup_parent`, a path from the root of the cgroups; empty: they stay in ours. With `has_scopes`,
    those that are in their pods' cgroups are in scopes of systemd's there: the cgroup driver is systemd.
    `allocates_scratch`: scratch disks are not sparse. `template_dir`: where there are empty ones to copy; else in
    `state_dir`.
    """

    run_dir: str
    guest_dir: str
    state_dir: str
    choice: Choice
    scratch_mib: int = 4096
    vsock_port: int = 0
    network: Settings | None = None
    crun: str = ""
    ids: Range | None = None
    cgroup_parent: str = ""
    has_scopes: bool = False
    allocates_scratch: bool = False
    template_dir: str = ""


def check_size(pod: Pod, host: Host) -> None:
    """Raise BadRequest when no guest can run in so little."""
    if pod.memory_mib < LEAST_MEMORY_MIB:
        raise BadRequest(
            f"{pod.memory_mib} MiB of memory is less than a guest needs; give the pod at least {LEAST_MEMORY_MIB} MiB"
        )
    if pod.memory_mib < kernels.LEAST_STOCK_MIB and not pod.host and _variant(pod, host) == kernels.STOCK:
        raise BadRequest(
            f"{pod.memory_mib} MiB of memory is less than a guest with a distribution's kernel needs; give the pod at "
            f"least {kernels.LEAST_STOCK_MIB} MiB, or build clearpod's own kernel: {kernels.REMEDY}"
        )
    if pod.suspend and (what := _unsaved(pod)):
        raise BadRequest(f"a pod with {what} can't be suspended or copied; leave out {SUSPEND} and the like")
    if pod.vcpus < 1:
        raise BadRequest(f"{pod.vcpus} vCPUs are too few for a VM; give the pod at least 1")


def _unsaved(pod: Pod) -> str:
    """What of the pod keeps its guest from being saved; empty when nothing does."""
    if pod.kernel == KERNEL_OF_IMAGE:
        return "a kernel of its own"
    if pod.host or pod.profile:
        return "namespaces of the host" if pod.host else "systemd"
    return "a user namespace" if pod.ids.length else ""


def host_pod(pod: Pod, host: Host, *, directory: str) -> HostPod:
    """The pod's agent on the host. Raises NotFound: that can't be done here, or the agent is not built."""
    if not host.crun:
        raise NotFound("pods with namespaces of the host can't run here: `clearpod check` lists what is missing")
    name = f"clearpod-{pod.id}"
    place = cgroup.place(podcgroup.path_of(pod.cgroup_parent), name)
    above = os.path.dirname(place)
    in_slice = host.has_scopes and above.endswith(".slice")
    return HostPod(
        name=name,
        agent=artefact(host, AGENT),
        run_dir=directory,
        crun=host.crun,
        cgroup=scope.inside(above, name) if in_slice else place,
        namespaces=pod.host,
        scratch=f"{host.state_dir}/scratch/{pod.id}" if host.scratch_mib else "",
    )


def vm_spec(pod: Pod, host: Host, *, directory: str) -> VmSpec:
    """The pod's VM, without devices of a network.

    Raises NotFound: the guest's kernel or images are not built, or there is no such variant of them.
    """
    hypervisor = host.choice.hypervisor
    variant = _variant(pod, host)
    is_stock = variant == kernels.STOCK
    if is_stock and pod.suspend:
        raise BadRequest(
            f"a pod with a distribution's kernel can't be suspended or copied; leave out {SUSPEND} and the like, or "
            f"build clearpod's own kernel: {kernels.REMEDY}"
        )
    kernel = artefact(host, kernels.file_name(host.guest_dir, variant, hypervisor=hypervisor))
    initramfs, system = profiles.file_names(host.guest_dir, pod.profile, variant=variant)
    return VmSpec(
        name=f"clearpod-{pod.id[:13]}",
        hypervisor=hypervisor,
        binary=host.choice.binary,
        run_dir=directory,
        kernel=kernel,
        initramfs=artefact(host, initramfs),
        system_image=artefact(host, system),
        memory_mib=pod.memory_mib,
        vcpus=pod.vcpus,
        link=_link(pod, host, directory=directory),
        shares=_shares(pod, directory),
        window_bytes=DISK_WINDOW_BYTES if pod.suspend else 0,
        scratch=_scratch(pod, host),
        is_scratch_kept=host.allocates_scratch,
        is_scratch_lasting=bool(pod.disk_volumes),
        is_scratch_parted=bool(pod.disk_limits),
        accel=host.choice.accel,
        has_rdrand=host.choice.has_rdrand,
        kernel_arguments=(
            *clock_arguments(host.choice.accel),
            *_online(pod),
        ),
        dax=_dax(pod, host, directory=directory) if host.choice.has_dax and not is_stock else None,
        is_stock=is_stock,
        memory_shim=_memory_shim(host),
        sandbox=host.choice.sandbox,
        jailer=f"{host.guest_dir}/{JAILER}",
        filter=f"{host.guest_dir}/{hypervisor.filter}",
        volume_server=os.path.realpath(f"{host.guest_dir}/{VOLUME_SERVER}"),
    )


def _variant(pod: Pod, host: Host) -> str:
    if pod.kernel == KERNEL_OF_IMAGE:
        return ""
    return kernels.chosen(host.guest_dir, pod.kernel, hypervisor=host.choice.hypervisor)


def _shares(pod: Pod, directory: str) -> tuple[Share, ...]:
    """A VM can't be saved while one is mounted: images come by a disk to a pod that can be suspended."""
    volumes = Share("volumes", f"{directory}/share/volumes", read_only=False)
    return (volumes,) if pod.suspend else (Share("layers", f"{directory}/share/layers", read_only=True), volumes)


def _scratch(pod: Pod, host: Host) -> str:
    """The path of the pod's disk. In the kubelet's directory of the pod it has the lifetime of the volumes on it."""
    if pod.disk_volumes:
        return f"{pod.kubelet_dir}/{LASTING_DISK}"
    return f"{host.state_dir}/scratch/{pod.id}.img" if host.scratch_mib else ""


def clock_arguments(accel: str) -> tuple[str, ...]:
    """The kernel arguments that keep an emulated guest's clock from counting ticks: on a busy host it loses many.

    Each further vCPU would count its loops for 150 ms or more, though all have one counter: `lpj` is that number. Nor
    need an emulated one the 10 ms that old processors take to reset.
    """
    khz = tsc.khz() if accel == "tcg" else 0
    return (f"tsc_early_khz={khz}", f"lpj={khz * 1000 // GUEST_HZ}", "cpu_init_udelay=0") if khz else ()


def _online(pod: Pod) -> tuple[str, ...]:
    """The vCPUs beyond the first are present and offline until the agent gets their number: booting one takes as long
    as half the kernel.
    """
    return (f"maxcpus={pod.online_vcpus}",) if pod.online_vcpus else ()


def _dax(pod: Pod, host: Host, *, directory: str) -> Dax | None:
    """None where the shim was not built: the system image is a disk then."""
    library = f"{host.guest_dir}/{host.choice.hypervisor.shim}"
    _, name = profiles.file_names(host.guest_dir, pod.profile, variant=_variant(pod, host))
    if not os.path.exists(library):
        return None
    images = (DaxImage(system := artefact(host, name), os.path.getsize(system)),)
    return Dax(os.path.realpath(library), images, pod.window_mib * MIB, f"{directory}/dax.sock")


def _memory_shim(host: Host) -> str:
    """Empty where it was not built, or can't be preloaded."""
    library = os.path.realpath(f"{host.guest_dir}/{host.choice.hypervisor.memory_shim}")
    is_of_use = host.choice.hypervisor.memory_shim and host.choice.preload and can_be_preloaded(library)
    return library if is_of_use and os.path.exists(library) else ""


def _link(pod: Pod, host: Host, *, directory: str) -> SerialLink | VsockLink:
    if not host.choice.hypervisor.uses_vsock:
        return SerialLink(f"{directory}/agent.sock")
    return VsockLink(vsock.choose_cid(int(pod.id[:8], 16)), host.vsock_port)


def with_network(plan: VmSpec | HostPod, pod: Pod, *, host: Host, network: PodNetwork | None) -> VmSpec | HostPod:
    """Return the VM with the pod's network devices, or the pod on the host in its network namespace."""
    if network is None or host.network is None:
        return plan
    path = netns_path(pod.id)
    return plan._replace(nics=nics(network), netns=path) if isinstance(plan, VmSpec) else plan._replace(netns=path)


def artefact(host: Host, name: str) -> str:
    """The path of one of the guest's files. Raises NotFound."""
    path = f"{host.guest_dir}/{name}"
    if not os.path.exists(path):
        raise NotFound(f"the guest's {name} is not in {host.guest_dir}; build it with `clearpod images build`")
    return os.path.realpath(path)
