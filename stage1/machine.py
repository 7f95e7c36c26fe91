# SPDX-License-Identifier: Apache-2.0
"""The machine that a pod becomes on this host: its hypervisor, size, devices, files of the guest. Called by the engine.

Looks at what is there and makes nothing, but for a place among the host's cgroups.
"""

import os
from typing import NamedTuple

from stage1.errors import BadRequest, NotFound
from stage1.linux import cgroup, podcgroup, scope, tsc, vsock
from stage1.net.settings import Settings, netns_path
from stage1.pod.model import LEAST_MEMORY_MIB, Pod
from stage1.pod.network import PodNetwork
from stage1.vm import host as host_driver
from stage1.vm import kernels, profiles
from stage1.vm.choose import Choice
from stage1.vm.slots import Range
from stage1.vm.spec import Dax, DaxImage, SerialLink, Share, VmSpec, VsockLink, nics
from stage1.vm.vmm import AGENT

MIB = 1 << 20
GUEST_HZ = 100
"""Ticks of our kernels in a second, CONFIG_HZ."""
SHIM, JAILER = "lkvm-shim.so", "jailer"
FILTERS = {"qemu": "seccomp-qemu.bpf", "kvmtool": "seccomp-kvmtool.bpf"}


class Host(NamedTuple):
    """What all pods of this host share. Directories are absolute.

    `scratch_mib` is each pod's scratch disk; with 0, writable layers are in guest memory. Without `network` pods have
    only their loopback. `host_pods` is how pods run that have namespaces of the host; None: not at all.
    `ids` are the host's ids for VMMs; None: a VMM is the user that we are. VMMs are in cgroups of their own, with
    limits, below `cgroup_parent`, a path from the root of the cgroups; empty: they stay in ours. With `has_scopes`,
    those that are in their pods' cgroups are in scopes of systemd's there: the cgroup driver is systemd.
    `allocates_scratch`: scratch disks are not sparse.
    """

    run_dir: str
    guest_dir: str
    state_dir: str
    choice: Choice
    scratch_mib: int = 4096
    vsock_port: int = 0
    network: Settings | None = None
    host_pods: Choice | None = None
    ids: Range | None = None
    cgroup_parent: str = ""
    has_scopes: bool = False
    allocates_scratch: bool = False


def choice(pod: Pod, host: Host) -> Choice:
    """What runs the pod. Raises NotFound when it wants namespaces of the host, and that can't be done."""
    if not pod.host:
        return host.choice
    if host.host_pods is None:
        raise NotFound("pods with namespaces of the host can't run here: `clearpod check` says what is missing")
    return host.host_pods


def check_size(pod: Pod) -> None:
    """Raise BadRequest when no guest can run in so little."""
    if pod.memory_mib < LEAST_MEMORY_MIB:
        raise BadRequest(
            f"{pod.memory_mib} MiB of memory is less than a guest needs; give the pod at least {LEAST_MEMORY_MIB} MiB"
        )
    if pod.vcpus < 1:
        raise BadRequest(f"{pod.vcpus} vCPUs make no VM; give the pod at least 1")


def _host_spec(pod: Pod, host: Host, *, directory: str) -> VmSpec:
    agent, name = _artefact(host, AGENT), f"clearpod-{pod.id}"
    vm = host_driver.spec(name, directory, agent=agent, choice=choice(pod, host), namespaces=pod.host)
    disk = f"{host.state_dir}/scratch/{pod.id}" if host.scratch_mib else ""
    place = cgroup.place(podcgroup.path_of(pod.cgroup_parent), name)
    above = os.path.dirname(place)
    in_slice = host.has_scopes and above.endswith(".slice")
    return host_driver.placed(vm, scope.inside(above, name) if in_slice else place, scratch=disk)


def vm_spec(pod: Pod, host: Host, *, directory: str) -> VmSpec:
    """The pod's VM, or its agent on the host, without devices of a network.

    Raises NotFound: the guest's kernel or images are not built, or there is no such variant of them.
    """
    if pod.host:
        return _host_spec(pod, host, directory=directory)
    on_kvmtool = host.choice.driver == "kvmtool"
    kernel = _artefact(host, kernels.file_name(host.guest_dir, pod.kernel, driver=host.choice.driver))
    initramfs, system = profiles.file_names(host.guest_dir, pod.profile)
    return VmSpec(
        name=f"clearpod-{pod.id[:13]}",
        binary=host.choice.binary,
        run_dir=directory,
        kernel=kernel,
        initramfs=_artefact(host, initramfs),
        system_image=_artefact(host, system),
        memory_mib=pod.memory_mib,
        vcpus=pod.vcpus,
        link=_link(pod, host, directory=directory),
        shares=(
            Share("layers", f"{directory}/share/layers", read_only=True),
            Share("volumes", f"{directory}/share/volumes", read_only=False),
        ),
        scratch=f"{host.state_dir}/scratch/{pod.id}.img" if host.scratch_mib else "",
        is_scratch_kept=host.allocates_scratch,
        accel=host.choice.accel,
        words=(*_clock(host.choice.accel), *_online(pod)),
        dax=_dax(pod, host, directory=directory) if on_kvmtool and host.choice.preload else None,
        sandbox=host.choice.sandbox,
        jailer=f"{host.guest_dir}/{JAILER}",
        filter=f"{host.guest_dir}/{FILTERS[host.choice.driver]}",
    )


def _clock(accel: str) -> tuple[str, ...]:
    """What an emulated guest must be told, lest its clock go by ticks, of which a busy host lets it lose many.

    Each further vCPU would count its loops for 150 ms or more, though all have one counter: `lpj` is that number. Nor
    need an emulated one the 10 ms that old processors take to reset.
    """
    khz = tsc.khz() if accel == "tcg" else 0
    return (f"tsc_early_khz={khz}", f"lpj={khz * 1000 // GUEST_HZ}", "cpu_init_udelay=0") if khz else ()


def _online(pod: Pod) -> tuple[str, ...]:
    """The other vCPUs are there and offline, until the agent is told: booting one takes as long as half the kernel."""
    return (f"maxcpus={pod.online_vcpus}",) if pod.online_vcpus else ()


def _dax(pod: Pod, host: Host, *, directory: str) -> Dax | None:
    """None where the shim was not built: the system image is a disk then."""
    library, name = f"{host.guest_dir}/{SHIM}", profiles.file_names(host.guest_dir, pod.profile)[1]
    if not os.path.exists(library):
        return None
    images = (DaxImage(system := _artefact(host, name), os.path.getsize(system)),)
    return Dax(os.path.realpath(library), images, pod.window_mib * MIB, f"{directory}/dax.sock")


def _link(pod: Pod, host: Host, *, directory: str) -> SerialLink | VsockLink:
    if host.choice.driver != "kvmtool":
        return SerialLink(f"{directory}/agent.sock")
    return VsockLink(vsock.choose_cid(int(pod.id[:8], 16)), host.vsock_port)


def with_network(vm: VmSpec, pod: Pod, *, host: Host, network: PodNetwork | None) -> VmSpec:
    """And with them."""
    if network is None or host.network is None:
        return vm
    return vm._replace(nics=() if vm.host else nics(network), netns=netns_path(pod.id))


def _artefact(host: Host, name: str) -> str:
    path = f"{host.guest_dir}/{name}"
    if not os.path.exists(path):
        raise NotFound(f"the guest's {name} is not in {host.guest_dir}; build it with `clearpod images build`")
    return os.path.realpath(path)
