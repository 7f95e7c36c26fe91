# SPDX-License-Identifier: Apache-2.0
"""Begins VMs with saved guests: copies (`prepare`, `load`), and pods that were suspended (`resume`). It also checks the
files of a checkpoint, which may have been anywhere. Called by the daemon in worker threads; what is asked of the guest
before and after is not here.

A suspended pod has its manifest in its directory: before it is there the guest goes on in the VMM that it has
(`save.go_on`), and from then on that is killed wherever it is found (`settle`), since the guest is in the file. It is
resumed when the manifest is gone again, and only then the new VMM lets the guest run. So a kill at any time leaves one
guest. QEMU gets the files as descriptors.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from stage1 import engine, machine, placement, prewarmed
from stage1.engine import Host, Prepared
from stage1.errors import BadRequest, KernelError, NotFound, Unsupported, WrongState
from stage1.linux import beneath
from stage1.net import attach, networks
from stage1.pod.model import Container, Pod
from stage1.pod.network import Interface, PodNetwork
from stage1.rootfs import scratch
from stage1.rootfs.checkpoint import DISK, GUEST, MANIFEST, Search, examined
from stage1.rootfs.flat import flatten
from stage1.rootfs.share import ImageFiles
from stage1.snapshot.format import MOST_BYTES, Manifest, decode
from stage1.snapshot.machine import booted, difference, identity
from stage1.snapshot.save import LIMIT_S, SUSPENDED, parts_of, suspended_guest
from stage1.vm import mapping, medium, monitor
from stage1.vm.spec import QMP, VOLUMES, VmSpec
from stage1.vm.vmm import Vmm, VmProcess

_OF_VMM = ("agent.sock", QMP, VOLUMES)


def can_join_later(pod: Pod, host: Host, *, interfaces: tuple[Interface, ...]) -> bool:
    """Whether the VM of a copy can begin before its network is there, as in the warm pool: the saved guest has the
    `interfaces` of one network. Raises BadRequest.
    """
    return (
        host.network is not None
        and [one.name for one in interfaces] == [attach.IFNAME]
        and len(networks.chosen(pod.networks, host.network)) == 1
    )


def prepare(pod: Pod, host: Host, *, manifest: Manifest | None = None, joins_later: bool = False) -> Prepared:
    """Like `engine.prepare`, for a pod whose VM is to be a copy, of what has `manifest` if that is known already: after
    `engine.boot` its VMM waits for the guest. With `joins_later` it has no network yet: `join_network` is to follow.
    Undo: `engine.clean_up`. Raises WrongState when it would be another machine, and as that.
    """
    if manifest:
        _require(manifest, {}, memory_mib=pod.memory_mib)
    prepared = prewarmed.prepare(pod, host) if joins_later else engine.prepare(pod, host)
    assert isinstance(prepared.vm, VmSpec)
    try:
        if manifest:
            check(manifest, prepared.vm, pod=pod, host=host, network=prepared.network)
    except BaseException:
        engine.clean_up(prepared.directory)
        raise
    return prepared._replace(vm=prepared.vm._replace(is_resumed=True))


def join_network(prepared: Prepared, host: Host) -> PodNetwork | None:
    """Give the VM that was prepared ahead of its network the network of its pod. Raises as `prewarmed.claim`, but
    WrongState when the network has other devices than the saved guest.
    """
    try:
        network = prewarmed.claim(prepared.pod, host)
    except Unsupported as error:
        raise WrongState(f"the pod can't have the saved guest's network: {error}") from None
    former = Manifest({}, interfaces=prepared.network.interfaces if prepared.network else ())
    _require(former, {}, interfaces=_names(network))
    prewarmed.record(prepared.pod, host, network=network)
    return network


def load(prepared: Prepared, host: Host, *, path: str, manifest: Manifest) -> None:
    """Load the guest, with its disk, into the VM that waits for it and has opened nothing of its disk's yet but the
    file: it runs when this returns, with its containers as they were. Raises WrongState when it would be another
    machine, NotFound when the files are removed meanwhile, VmFailed, NoSpace, KernelError.
    """
    vm = prepared.vm
    assert isinstance(vm, VmSpec)
    check(manifest, vm._replace(is_resumed=False), pod=prepared.pod, host=host, network=prepared.network)
    try:
        _load(prepared, host, path=path, manifest=manifest)
    except KernelError as error:
        names = (DISK, GUEST) if vm.scratch else (GUEST,)
        gone = next((f"{path}/{name}" for name in names if not os.path.lexists(f"{path}/{name}")), "")
        if error.errno != errno.ENOENT or not gone:
            raise
        raise NotFound(
            f"{gone} was removed while a pod began as a copy of it; keep it until the pod is ready"
        ) from None


def _load(prepared: Prepared, host: Host, *, path: str, manifest: Manifest) -> None:
    vm = prepared.vm
    assert isinstance(vm, VmSpec)
    if vm.scratch:
        _check_disk(f"{path}/{DISK}", vm.scratch)
        scratch.copy_sparse(f"{path}/{DISK}", vm.scratch)
        if host.allocates_scratch:
            scratch.allocate(vm.scratch)
    mapping.restore(prepared.directory, vm.window_bytes, images=manifest.images)
    _go_on(prepared.directory, f"{path}/{GUEST}", manifest=manifest)


def _go_on(directory: str, guest: str, *, manifest: Manifest, last: Callable[[], object] = lambda: None) -> None:
    """Load the file into the VM of the pod in `directory`, which waits for it, and let the guest run after `last`."""
    with medium.connected(directory, limit_s=LIMIT_S) as qmp:
        monitor.load_guest(qmp, guest, vm=engine.recorded_vm(directory))
        pieces = [(file, offset, size) for file, offset, size, _ in manifest.pieces]
        medium.add(qmp, pieces, disk_bytes=machine.DISK_WINDOW_BYTES)
        last()
        qmp.run("cont")


def check(manifest: Manifest, vm: VmSpec, *, pod: Pod, host: Host, network: PodNetwork | None) -> None:
    """Raise WrongState unless the VM can be a copy: the same machine, and the same images as then."""
    _require(manifest, parts_of(vm, pod, host=host), memory_mib=pod.memory_mib, interfaces=_names(network))


def _require(
    manifest: Manifest, made_of: Mapping[str, str], *, memory_mib: int = 0, interfaces: Sequence[str] | None = None
) -> None:
    remedy = "save a guest of now"
    if why := difference(manifest, made_of, memory_mib=memory_mib, interfaces=interfaces, remedy=remedy):
        raise WrongState(why)


def _names(network: PodNetwork | None) -> list[str]:
    return [one.name for one in network.interfaces] if network else []


def _check_disk(saved: str, disk: str) -> None:
    """Raise WrongState unless the pod has a disk of that size: its guest goes on writing to the end of what it had."""
    was, now = scratch.size(saved), scratch.size(disk)
    if was != now:
        raise WrongState(f"the disk {saved} has {was} bytes, and that of the pod {now}; ask for a disk of that size")


def is_suspended(directory: str) -> bool:
    """Whether the pod in `directory` is suspended."""
    with beneath.Root(directory) as own:
        return own.exists(SUSPENDED)


def settle(directory: str) -> None:
    """Finish a `save.suspend` or `resume` that was killed: the pod is suspended, and has no VMM. Raises VmFailed."""
    vm = engine.find_vm(directory)
    if vm is not None:
        vm.kill()
    engine.end_rest(directory)


def resume(directory: str, pod: Pod, *, host: Host, vmm: Vmm, containers: Iterable[Container] = ()) -> VmProcess:
    """Begin a VM and load the guest, which runs when this returns; the volumes of `containers` are there again. When it
    raises, the pod is still suspended. Raises WrongState when this host would make another machine of the pod now,
    VmFailed, KernelError, and as `engine.add_container`.
    """
    manifest = _suspended(directory)
    network = engine.network(directory)
    spec = machine.with_network(machine.vm_spec(pod, host, directory=directory), pod, host=host, network=network)
    assert isinstance(spec, VmSpec)
    if why := difference(manifest, booted(spec), remedy="delete the pod, so that it is created again"):
        raise WrongState(why)
    path = suspended_guest(pod, host)
    _check_guest(path, manifest.files.get(GUEST))
    settle(directory)
    with beneath.Root(directory) as own:
        for name in _OF_VMM:
            own.unlink(name)

    def be_resumed() -> None:
        _attach(directory, pod, containers=containers)
        with beneath.Root(directory) as own:
            own.unlink(SUSPENDED)

    vm, note = placement.add(spec._replace(is_resumed=True), pod, host=host, directory=directory)
    try:
        started, _ = engine.boot(Prepared(pod, directory, vm, b"", network, note), vmm)
        _go_on(directory, path, manifest=manifest, last=be_resumed)
    except BaseException:
        if is_suspended(directory):
            settle(directory)
        raise
    scratch.forget_guest(directory)
    return started


def _attach(directory: str, pod: Pod, *, containers: Iterable[Container]) -> None:
    """Their volumes were mounted in the former VMM's mounts, and are gone. Those of the host were of containers that
    have ended.
    """
    for container in containers:
        rest = (one._replace(shared_as="gone") if one.is_of_host else one for one in container.mounts)
        container = container._replace(mounts=tuple(rest))
        place = f"{engine.bundle(container.id)}/mounts"
        with beneath.Root(directory, one_mount=True) as own:
            own.remove_tree(place)
            own.make_directory(place, 0o755)
        engine.attach_volumes(directory, pod, container=container)


def _check_guest(path: str, was: tuple[int, str] | None) -> None:
    """Raise WrongState unless the file is there, and is what was saved: a guest whose memory is damaged would go on
    with it.
    """
    why = "" if os.path.lexists(path) else "is gone"
    if not why and examined(path) != was:
        why = "was changed or damaged"
    if why:
        raise WrongState(f"{path}, with the pod's guest, {why}, so it can't be resumed; delete the pod")


def _suspended(directory: str) -> Manifest:
    try:
        with beneath.Root(directory) as own:
            text = own.read(SUSPENDED, most=MOST_BYTES, ours=True)
    except FileNotFoundError:
        raise WrongState("the pod is not suspended") from None
    return decode(text, of=f"{directory}/{SUSPENDED}, by which the pod would be resumed,")


def check_files(place: str, manifest: Manifest, *, title: str = "", link_key: bytes = b"") -> None:
    """Raise BadRequest unless the files are what they were, and the guest has `link_key` in its memory: it would never
    answer who knows another one. Or KernelError. People know the place as `title`.
    """
    title, search = title or place, Search(link_key)
    for name in (GUEST, DISK):
        path, shown, was = f"{place}/{name}", f"{title}/{name}", manifest.files.get(name)
        if was is None:
            if name == GUEST:
                raise BadRequest(f"{title}/{MANIFEST} has nothing of {name}; take another snapshot")
            if os.path.lexists(path):
                raise BadRequest(f"{shown} is not part of the snapshot; remove it, or take another snapshot")
            continue
        try:
            now = examined(path, visit=search if name == GUEST else bool)
        except FileNotFoundError:
            raise BadRequest(f"{shown} is missing, so the snapshot can't be loaded; take another one") from None
        if now != was:
            raise BadRequest(
                f"{shown} has {now.size_bytes} bytes of digest {now.sha256[:12]}, and the manifest has {was[0]} of "
                f"{was[1][:12]}: it was changed or damaged; take another snapshot"
            )
    if not search.is_there:
        raise BadRequest(
            f"{title}/{MANIFEST} has a link_key that the guest does not have: it was changed or damaged; take another "
            "snapshot"
        )


def located(manifest: Manifest, images: Mapping[str, ImageFiles]) -> Manifest:
    """The manifest with the files of `images`, whose paths are ours, where they lie in the window: they must be those
    of before. Raises WrongState when they are others, Corrupt, KernelError.
    """
    pieces = []
    for place in manifest.images:
        for path, offset, size in flatten(images[place.name]):
            pieces.append((path, place.offset + offset, size, identity(path)))
    if sorted(one[1:] for one in pieces) != sorted(one[1:] for one in manifest.pieces):
        raise WrongState(
            "an image of the snapshot was pulled or merged again since, so its guest would read another file; take "
            "another snapshot"
        )
    return manifest._replace(pieces=tuple(pieces))
