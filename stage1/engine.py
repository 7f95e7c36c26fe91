# SPDX-License-Identifier: Apache-2.0
"""The order of things for one pod: prepare, boot, add containers, clean up. (Images: rootfs/export.py, vm/mapping.py.)

Called by `cri/` (in worker threads) and by rkt's entry points. Blocking, no state of its own: all that it makes lies
below the pod's directory or in the kernel, so that `clean_up` can undo everything from the directory alone, in any
process, at any time, twice. What talks to the agent is not here.

The pod's directory `<run dir>/pods/<pod id>`, mode 0700:

    vm.json        the VMM's pid and start time, and the guest's vsock context id if it has one, for adoption
    console.log    what the VMM and the guest's kernel wrote
    cni.json       symbolic link to the record of the pod's network, which must survive a reboot
    agent.sock     QEMU's end of the link
    dax.sock       kvmtool's window: images are mapped into the running VM here
    window.json    what is in that window; beside it `images/`, which files each mounted image was made of
    journal, scratch.img    symbolic links to the journal of a pod with systemd, and to the disk for writable layers
    cgroup*        symbolic links to the VMM's cgroups, or to that of a pod on the host, whose scratch is a directory
    ids            symbolic link to the pod's claim on host ids (vm/slots.py)
    shifted        of a pod with a user namespace: the one by which images and volumes are mapped (rootfs/owners.py)
    tree/          what the guest sees; written here by the host
    share/         `tree`, bound read-only, exported by 9p: share/layers/<image>, share/volumes/{pod,containers/<id>}.
                   Images are mounted below it; in the VMM's own mount namespace, volumes that are copied or rkt's; in
                   that of their server, at share/volumes/sources/<name>, all other volumes of the host
    fuse.sock      QEMU's end of the stream to that server
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from stage1 import disks, machine, placement, served
from stage1.errors import NotFound, PodError, VmFailed
from stage1.linux import beneath, cgroup, files, mount, namespace, process
from stage1.linux.libc import Guard
from stage1.machine import Host as Host
from stage1.net import attach as net
from stage1.net.settings import Settings
from stage1.pod import apparmor, guest_volumes, oci, on_host
from stage1.pod.model import Container, Pod, Process
from stage1.pod.network import PodNetwork
from stage1.rootfs import export, identity, owners, unmounting, volumes
from stage1.rootfs.share import ImageFiles
from stage1.vm import limits, mapping, record, slots
from stage1.vm.host import HostPod
from stage1.vm.record import Record
from stage1.vm.spec import Link, SerialLink, VmSpec, VsockLink
from stage1.vm.start import start
from stage1.vm.vmm import Vmm, VmProcess, find_unrecorded

Attach = Callable[[Pod, str], PodNetwork | None]


CONSOLE, HOST_VOLUMES, _MOST_PODS = "console.log", "host_volumes", 65536
_MOUNT_POINTS = ("share", owners.KEPT, owners.OF_KERNEL)
"""What the host mounts in a pod's directory is at or below these."""
FOREGROUND = "run"
"""The directory below a daemon's run directory for pods without a daemon."""


class Prepared(NamedTuple):
    """A pod that can be booted: as a VM, or on the host. `link_key` is the secret of docs/dev/link.md; `network` None
    is loopback only. `cgroup_note` is what the cgroup that was made for the pod lacks for its VM; empty if it
    lacks nothing. `network_ns` is how long the network took.
    """

    pod: Pod
    directory: str
    vm: VmSpec | HostPod
    link_key: bytes
    network: PodNetwork | None = None
    cgroup_note: str = ""
    network_ns: int = 0


def pod_directory(host: Host, pod_id: str) -> str:
    """The pod's directory, whether it exists or not."""
    return f"{host.run_dir}/pods/{pod_id}"


def prepare(pod: Pod, host: Host, *, attach: Attach | None = None) -> Prepared:
    """Make the pod's directory, share, scratch disk and network (by `attach`, if that is given), and decide on its VM.

    Rolled back when it fails. Raises:
        BadRequest: the pod asks for less memory than a guest needs.
        NotFound: the guest's kernel or images are not built, or not that variant or profile.
        NetworkFailed: a CNI plugin failed.
    """
    machine.check_size(pod, host)
    directory = pod_directory(host, pod.id)
    plan = machine.host_pod if pod.host else machine.vm_spec
    vm, note = plan(pod, host, directory=directory), ""
    files.make_dirs(f"{host.run_dir}/pods", 0o711)
    with beneath.Root(f"{host.run_dir}/pods") as pods:
        pods.make_directory(pod.id, 0o700)
    try:
        _make_share(pod, directory)
        if isinstance(vm, VmSpec):
            vm, note = _furnish(vm, pod, host=host)
        else:
            _furnish_on_host(vm, host)
        begun_ns = time.monotonic_ns()
        network = attach(pod, directory) if attach else _attach(pod, directory, settings=host.network)
        network_ns = time.monotonic_ns() - begun_ns
        vm = machine.with_network(vm, pod, host=host, network=network)
        identity.write(pod, directory, network=network, is_new=True)
    except BaseException as error:
        _clean_up_after(error, directory)
        raise
    return Prepared(pod, directory, vm, os.urandom(16), network, note, network_ns)


def _furnish(vm: VmSpec, pod: Pod, *, host: Host) -> tuple[VmSpec, str]:
    """The VM with its ids, cgroups and disks, and the note of `placement.add`."""
    vm, note = placement.add(vm, pod, host=host, directory=vm.run_dir)
    disks.add(vm, pod, host=host)
    if size := vm.window_bytes or (vm.dax.window_bytes if vm.dax else 0):
        mapping.create(vm.run_dir, size, is_disk=not vm.dax)
    return vm, note


def _furnish_on_host(pod: HostPod, host: Host) -> None:
    placement.add_host_pod(pod)
    disks.add_on_host(pod, host)


def boot(prepared: Prepared, vmm: Vmm) -> tuple[VmProcess, Link]:
    """Start the VMM and write down who it is; the process, and the link over which its agent answers later."""
    vm = prepared.vm
    link: Link = SerialLink(f"{prepared.directory}/agent.sock")
    if isinstance(vm, VmSpec):
        started, link = placement.entering(vm, lambda: start(vm, vmm))
        memory_bytes = limits.of(vm).memory_bytes if vm.cgroups else 0
        entry = Record(started, vm.ids, memory_bytes=memory_bytes, cid=link.cid if isinstance(link, VsockLink) else 0)
        entry = entry.with_server(vm.volume_server, started.server)
    else:
        started = placement.entering_host_pod(vm, lambda: vmm.start(vm))
        entry = Record(started)
    try:
        record.write(prepared.directory, entry)
    except BaseException:
        started.kill()
        raise
    return started, link


def add_container(directory: str, pod: Pod, *, container: Container, target_pid: int = 0, policy: bytes = b"") -> str:
    """Write the container's bundle, with its AppArmor `policy` if there is one, and mount its volumes: those of the
    host where their server shows them to the guest (`served`), the rest, and all of a pod without that, in the bundle.
    Returns the bundle's path on the host.

    Raises:
        NotFound: a volume's source does not exist, on the host or in its image (which is in the export).
        Unsupported: a volume is on a file system whose owners can't be mapped; and as `rootfs.volumes.attach`.
        VmFailed: the server of volumes can't be started.
    """
    place = bundle(container.id)
    container = container._replace(mounts=tuple(volumes.located(directory, volume) for volume in container.mounts))
    with _own(directory) as own:
        own.make_directory(place, 0o700)
        try:
            if container.mounts:
                own.make_directory(f"{place}/mounts", 0o755)
                container = _attach_all(directory, pod, container=container)
            document = _document(pod, container, directory=directory, target_pid=target_pid)
            own.write_new(f"{place}/config.json", oci.written(document))
            if container.has_guest_volumes:
                own.write_new(f"{place}/{guest_volumes.FILE}", guest_volumes.listing(container, pod.ids))
            if policy:
                own.write_new(f"{place}/{apparmor.POLICY}", policy)
        except BaseException:
            remove_container(directory, container.id)
            raise
    return f"{directory}/{place}"


def _attach_all(directory: str, pod: Pod, *, container: Container) -> Container:
    entry = record.read(directory)
    if entry and entry.volume_server:
        with owners_of(directory, pod, entry=entry) as mapped:
            container = served.add(directory, pod, container=container, mapped=mapped)
    attach_volumes(directory, pod, container=container)
    return container


def attach_volumes(directory: str, pod: Pod, *, container: Container) -> None:
    """Mount the container's volumes into its bundle, in the VMM's mounts. Raises as `add_container`."""
    if not container.bound_mounts:
        return
    entry = record.read(directory)
    pid, place = _living(entry.vmm if entry else None), f"volumes/containers/{container.id}/mounts"
    with owners_of(directory, pod, entry=entry) as mapped:
        given = [(volume, f"{place}/{number}", mapped.of(volume)) for number, volume in container.bound_mounts.items()]
        volumes.attach_all(given, directory, pid=pid)
    if pid and any(not volume.read_only for volume in container.bound_mounts.values()):
        placement.grow(directory, pid, memory_bytes=entry.memory_bytes if entry else 0)


def add_image(directory: str, pod: Pod, *, image: ImageFiles) -> str:
    """Put the image into the layers export, as `rootfs.export.add_image`, with the owners that the pod's guest sees."""
    with owners_of(directory, pod) as mapped:
        return export.add_image(directory, image, ids=mapped.shifted, pid=lambda: living_pid(directory))


def owners_of(directory: str, pod: Pod, *, entry: record.Record | None = None) -> owners.Owners:
    """Return the owners of files for the pod's running VMM; unmapped when it does not run or has no user namespace. Its
    record is `entry`, or is read when they are asked for.
    """

    def find_vmm() -> owners.Vmm:
        known = entry or record.read(directory)
        return (known.vmm.pid, known.vmm.start_time, known.ids) if known else (0, 0, ())

    return owners.Owners(directory, pod.ids, find_vmm)


def add_exec(directory: str, pod: Pod, *, container: Container, what: Process, number: int) -> str:
    """Write the process document of exec `number`; returns its name in the bundle, for the agent."""
    name = f"exec-{number}.json"
    document = oci.process(pod, container, what=what)
    if pod.host:
        document = _within(document)
    with _own(directory) as own:
        own.write(f"{bundle(container.id)}/{name}", oci.written(document))
    return name


def remove_exec(directory: str, container_id: str, *, number: int) -> None:
    """Remove what `add_exec` wrote. Idempotent."""
    try:
        with _own(directory) as own:
            own.unlink(f"{bundle(container_id)}/exec-{number}.json")
    except FileNotFoundError:
        pass


def remove_container(directory: str, container_id: str, *, has_mounts: bool = True) -> None:
    """Unmount the volumes, if any, and remove the bundle. Idempotent. The agent must be done with it."""
    shown = f"share/volumes/containers/{container_id}"
    try:
        if has_mounts:
            namespace.in_mounts_of(living_pid(directory) or os.getpid(), lambda: unmounting.alone(directory, shown))
            with _own(directory) as own:
                is_served = own.exists(f"{bundle(container_id)}/{HOST_VOLUMES}")
            if is_served:
                served.remove(directory, container_id)
    except FileNotFoundError:
        pass  # the VMM has ended just now, and its mounts with it
    try:
        with _own(directory) as own:
            place = bundle(container_id)
            unmounting.freed(f"{directory}/{place}", lambda: own.remove_tree(place))
    except FileNotFoundError:
        pass


def bundles(directory: str) -> list[str]:
    """The ids of containers that have a bundle; at most some thousand, however many the directory has."""
    with _own(directory) as own:
        return own.names("tree/volumes/containers")


def recorded_vm(directory: str) -> VmProcess | None:
    """The pod's VMM as `boot` wrote it down, alive or not; None if it never did. Raises VmFailed if that is damaged."""
    entry = record.read(directory)
    return entry.vmm._replace(console=f"{directory}/{CONSOLE}") if entry else None


def find_vm(directory: str) -> VmProcess | None:
    """Like `recorded_vm`, but if the record is damaged the VMM is searched for among all processes."""
    try:
        return recorded_vm(directory)
    except VmFailed:
        return find_unrecorded(directory)


def find_link(directory: str, host: Host) -> Link:
    """The link to the agent of a pod that `boot` wrote down, maybe in an earlier process.

    Raises NotFound when the pod was never booted, VmFailed when the record is damaged.
    """
    entry = record.read(directory)
    if entry is None:
        raise NotFound(f"{directory}/{record.FILE} is missing: this pod has no virtual machine")
    return VsockLink(entry.cid, host.vsock_port) if entry.cid else SerialLink(f"{directory}/agent.sock")


def clean_up(directory: str) -> str:
    """Kill the VMM if it lives, unmount, remove everything, from the directory alone; idempotent.

    Returns a sentence when a CNI plugin failed at DEL, which `garbage.networks` tries again; else nothing.
    """
    with Guard("remove", directory):
        return _clean_up(directory)


def _clean_up(directory: str) -> str:
    vm = find_vm(directory) or find_unrecorded(directory)
    if vm is not None:
        vm.kill()
    end_rest(directory)
    unmounting.points(directory, _MOUNT_POINTS)
    left = disks.remove(directory)
    problems = "; ".join(filter(None, [*left, net.detach(directory)]))
    placement.see_removed(directory)
    slot = slots.find(directory)
    unmounting.remove(directory)
    slots.release(slot, directory)  # last: no other pod may get ids that still own files here
    return problems


def keep_space(pod: Pod, host: Host) -> None:
    """Let the pod's cgroup have room for its VM after a client may have given it another limit. Raises as
    `placement.keep_space`.
    """
    directory = pod_directory(host, pod.id)
    placement.keep_space(machine.vm_spec(pod, host, directory=directory), pod, host=host, directory=directory)


def end_rest(directory: str) -> None:
    """Kill what a pod on the host has left, its agent having ended; remove the cgroups, a VMM's too. Idempotent."""
    placement.end(directory)


def _clean_up_after(error: BaseException, directory: str) -> None:
    """Remove what a failed call has made, best-effort: what stays is garbage-collected at the next start."""
    try:
        problem = clean_up(directory)
    except PodError as second:
        problem = f"{directory} could not be removed: {second}"
    if problem:
        error.add_note(f"and {problem}")


def network(directory: str) -> PodNetwork | None:
    """The network of the pod, as written down by `prepare`; None when it has none (any more)."""
    return net.read(directory)


def remove_network(directory: str, *, is_cut: bool = False) -> str:
    """Give the pod's addresses and rules back. Idempotent. Its VM has ended, or is cut off first (`is_cut`).

    Raises NetworkFailed when a CNI plugin fails at DEL; calling it again tries again. After some times that is left
    to `garbage.networks`, and a sentence about it returned.
    """
    return net.detach(directory, tries=net.TRIES, is_cut=is_cut)


def is_there(host: Host, pod_id: str) -> bool:
    """Whether the pod has a directory."""
    try:
        with beneath.Root(f"{host.run_dir}/pods") as pods:
            return pods.exists(pod_id)
    except FileNotFoundError:
        return False


def pod_directories(host: Host) -> list[str]:
    """All pod directories that exist; recovery compares them with what it knows."""
    return directories(host.run_dir)


def directories(run_dir: str) -> list[str]:
    """All pod directories below that run directory."""
    try:
        with beneath.Root(f"{run_dir}/pods") as pods:
            return [f"{pods.path}/{name}" for name in pods.names(most=_MOST_PODS)]
    except FileNotFoundError:
        return []


def _make_share(pod: Pod, directory: str) -> None:
    with beneath.Root(directory) as own:
        for name in (
            "tree",
            "tree/layers",
            "tree/volumes",
            "tree/volumes/pod",
            "tree/volumes/containers",
            "tree/volumes/sources",
            "share",
        ):
            own.make_directory(name, 0o755)
    mount.bind(f"{directory}/tree", f"{directory}/share", read_only=True)
    # Where the host's mounts are shared, as systemd makes them, what is mounted below would appear in `tree` as well.
    mount.set_propagation(f"{directory}/share", mount.MS_PRIVATE)
    # Images are mounted here, and appear in the namespace of the VMM, where the volumes are.
    mount.set_propagation(f"{directory}/share", mount.MS_SHARED)


def _attach(pod: Pod, directory: str, *, settings: Settings | None) -> PodNetwork | None:
    if settings is None or "network" in pod.host:
        return None
    return net.attach(pod, directory, settings=settings, with_taps=not pod.host)


def _document(pod: Pod, container: Container, *, directory: str, target_pid: int) -> dict[str, object]:
    if not pod.host:
        return oci.config(pod, container, target_pid=target_pid)
    usable = cgroup.controllers(next(iter(placement.cgroups(directory)), ""))
    document = on_host.config(pod, container, controllers=usable, target_pid=target_pid)
    return {**document, "process": _within(document["process"])}


def _within(document: dict[str, Any]) -> dict[str, object]:
    return on_host.within(document, open_files=process.most_open_files(), capabilities=process.capabilities())


def living_pid(directory: str) -> int:
    """The pid of the VMM; 0 when there is none. What its shares have is mounted in its namespace."""
    return _living(find_vm(directory))


def _living(vm: VmProcess | None) -> int:
    return vm.pid if vm is not None and vm.alive() else 0


def bundle(container_id: str) -> str:
    """The container's bundle in its pod's directory; the guest sees it through the share."""
    return f"tree/volumes/containers/{container_id}"


def _own(directory: str) -> beneath.Root:
    """Access to files that the host writes in the pod's directory, where it mounts nothing. Raises Missing."""
    return beneath.Root(directory, one_mount=True)
