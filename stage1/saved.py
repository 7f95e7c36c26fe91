# SPDX-License-Identifier: Apache-2.0
"""A running pod's guest and disk, saved into a directory while the pod goes on, and other pods that begin as copies of
it. Called by the daemon in worker threads; requests to the guest before and after that are not made here.

    guest          memory and devices, as QEMU writes them
    disk           the pod's disk as it was in the same moment; absent where it has none
    manifest.json  `Manifest`: what the guest was saved with, and what the daemon adds about its containers

Root's, mode 0700: it has all secrets of the pod. It appears by rename when it is whole, and is only read then.
"""

import errno
import json
import os
import time
from typing import NamedTuple

from stage1 import engine, machine, prewarmed
from stage1.engine import Host, Prepared
from stage1.errors import AlreadyExists, KernelError, NotFound, Unsupported, VmFailed, WrongState
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.machine import MIB
from stage1.net import attach, networks
from stage1.pod.model import Pod
from stage1.pod.network import Interface, PodNetwork
from stage1.rootfs import scratch
from stage1.rootfs.checkpoint import DISK, GUEST, MANIFEST, require
from stage1.suspended import Piece, go_on, in_window
from stage1.vm import guest_file, mapping, medium, template_key
from stage1.vm.spec import VmSpec
from stage1.vm.template_key import is_same
from stage1.vm.window import Placed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from stage1.rootfs.checkpoint import Awaited
    from stage1.rootfs.share import ImageFiles

FORKS = "forks"
"""The directory below the state directory for copies that are being made."""
LIMIT_S = 120.0
_VERSION = 1
_NEW = ".new"
_MOST_BYTES = 1 << 24
_LABELS = {
    "system": "system image",
    "hypervisor": "VMM",
    "cpu": "processor of the host",
    "host": "kernel of the host",
    "scratch": "size of the disk",
    "arguments": "machine (vCPUs, devices, options of its kernel)",
}
"""What the parts of `made_of` are called in errors; `kernel`, `initramfs` and `format` keep their names."""
_OF_POD = ("scratch", "arguments")
"""The parts that the pod's request determines."""


class Manifest(NamedTuple):
    """`made_of` are the parts of `template_key`, `pieces` and `images` what lay where on the disk for images, and
    `interfaces` are the guest's. `more` is the daemon's, values for JSON.
    """

    memory_mib: int
    made_of: "Mapping[str, str]"
    pieces: tuple[Piece, ...]
    images: tuple[Placed, ...]
    interfaces: tuple[Interface, ...]
    more: "Mapping[str, Any]"


class Target(NamedTuple):
    """The new directory `path` for a guest, and `more` for its manifest. `written` is called when all files are there,
    while the guest is still stopped.
    """

    path: str
    more: "Mapping[str, Any]"
    written: "Callable[[], object]" = lambda: None


def write_back(directory: str, pod: Pod, *, host: Host, near: str) -> bool:
    """Write back, before the guest is saved into the directory `near` or one in it, what of its disk would have to be
    written while it is stopped. Return whether its disk will take space there. Raises KernelError.
    """
    files.make_dirs(near, 0o700)
    disk = machine.vm_spec(pod, host, directory=directory).scratch
    return bool(disk) and not scratch.write_back(disk, near)


def save(
    directory: str,
    pod: Pod,
    *,
    host: Host,
    images: "Mapping[str, ImageFiles]",
    target: Target,
) -> float:
    """Save the guest with `images` by their names in its window, and its disk, into a new directory. The guest goes on
    in any case; seconds for which it was stopped.

    Raises AlreadyExists, VmFailed, NoSpace, KernelError; nothing is left then.
    """
    path, more, written = target
    if os.path.lexists(path):
        raise AlreadyExists(f"{path} exists; a guest is saved into a new directory")
    manifest = describe(directory, pod, host=host, images=images)._replace(more=more)
    new = f"{path}{_NEW}"
    files.make_dirs(os.path.dirname(path), 0o700)
    remove(new)
    with Guard("make", new):
        os.mkdir(new, 0o700)
    try:
        files.write_atomic(f"{new}/{MANIFEST}", json.dumps({"v": _VERSION, **manifest._asdict()}).encode())
        guest_file.make(f"{new}/{GUEST}")

        def appear() -> None:
            with Guard("rename", new):
                os.rename(new, path)
            written()

        disk = machine.vm_spec(pod, host, directory=directory).scratch
        return take(directory, new, disk=disk, complete=appear)
    except BaseException:
        remove(path)
        raise


def remove(path: str) -> None:
    """Remove what `save` has made or begun; gone already is fine. Raises KernelError."""
    files.remove_tree(path)
    files.remove_tree(f"{path}{_NEW}")


def left_in(top: str) -> list[str]:
    """The names of all that is in the directory of copies that are being made; none when it can't be listed."""
    try:
        return sorted(os.listdir(top))
    except OSError:
        return []


def read(path: str) -> Manifest:
    """The manifest in the directory. Raises NotFound, VmFailed if it is damaged."""
    try:
        document = json.loads(files.read(f"{path}/{MANIFEST}")[:_MOST_BYTES])
        if document["v"] != _VERSION:
            raise ValueError
        return Manifest(
            int(document["memory_mib"]),
            {str(key): str(value) for key, value in document["made_of"].items()},
            tuple((str(a), int(b), int(c), str(d)) for a, b, c, d in document["pieces"]),
            tuple(Placed(str(a), int(b), int(c)) for a, b, c in document["images"]),
            tuple(Interface(a, b, int(c), tuple(d), e) for a, b, c, d, e in document["interfaces"]),
            dict(document["more"]),
        )
    except FileNotFoundError:
        raise NotFound(f"there is no saved guest in {path}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise VmFailed(f"{path}/{MANIFEST} is damaged, so no VM can be started from it") from None


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
        _check_memory(pod, manifest)
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
    _check_interfaces(prepared.network.interfaces if prepared.network else (), network)
    prewarmed.record(prepared.pod, host, network=network)
    return network


def load(prepared: Prepared, host: Host, *, path: str, manifest: Manifest) -> None:
    """Load the guest, with its disk, into the VM that waits for it and has opened nothing of its disk's yet but the
    file: it runs when this returns, with its containers as they were. Raises WrongState when it would be another
    machine, NotFound when the files are removed meanwhile, VmFailed, NoSpace, KernelError.
    """
    vm = prepared.vm
    assert isinstance(vm, VmSpec)
    _check_memory(prepared.pod, manifest)
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
    with medium.connected(prepared.directory, limit_s=LIMIT_S) as monitor:
        guest_file.read(monitor, f"{path}/{GUEST}", vm=engine.recorded_vm(prepared.directory))
        pieces = [(file, offset, size) for file, offset, size, _ in manifest.pieces]
        medium.add(monitor, pieces, disk_bytes=vm.window_bytes)
        monitor.run("cont")


def check(manifest: Manifest, vm: VmSpec, *, pod: Pod, host: Host, network: PodNetwork | None) -> None:
    """Raise WrongState unless the VM can be a copy: the same machine, and the same images as then."""
    if other := difference(manifest.made_of, _made_of(vm, pod, host=host)):
        remedy = "ask for the same" if other in _OF_POD else "save a guest of now"
        raise WrongState(
            f"the saved guest has another {_LABELS.get(other, other)} than this pod would have here; {remedy}"
        )
    for file, _, _, was in manifest.pieces:
        if not is_same(file, was):
            raise WrongState(f"{file}, of an image of the saved guest, was replaced")
    _check_interfaces(manifest.interfaces, network)


def _check_interfaces(saved: tuple[Interface, ...], network: PodNetwork | None) -> None:
    names = [[one.name for one in given] for given in (saved, network.interfaces if network else ())]
    if names[0] != names[1]:
        raise WrongState(f"the saved guest has the networks {names[0]}, and this pod would have {names[1]}")


def difference(was: "Mapping[str, str]", now: "Mapping[str, str]") -> str:
    """The first part in which a machine is another one, those of the pod's choice last: files are named by it, too."""
    others = [name for name in now if was.get(name) != now[name]]
    return min(others, key=lambda name: name in _OF_POD, default="")


def outdated(manifest: Manifest) -> str:
    """Why no pod of this host can be a copy any more, as a sentence; empty when one could. Raises KernelError."""
    if name := template_key.replaced(manifest.made_of, template_key.this_host()):
        return f"the saved guest has another {_LABELS.get(name, name)} than this host has now"
    return next(
        (f"{file}, of an image, was replaced" for file, _, _, was in manifest.pieces if not is_same(file, was)), ""
    )


def _check_memory(pod: Pod, manifest: Manifest) -> None:
    if pod.memory_mib != manifest.memory_mib:
        raise WrongState(
            f"the pod would have {pod.memory_mib} MiB of memory, and the saved guest has {manifest.memory_mib} MiB; "
            "ask for the same"
        )


def _check_disk(saved: str, disk: str) -> None:
    """Raise WrongState unless the pod has a disk of that size: its guest goes on writing to the end of what it had."""
    was, now = scratch.size(saved), scratch.size(disk)
    if was != now:
        raise WrongState(f"the disk {saved} has {was} bytes, and that of the pod {now}; ask for a disk of that size")


def describe(directory: str, pod: Pod, *, host: Host, images: "Mapping[str, ImageFiles]") -> Manifest:
    """The manifest of the saved pod, with `images` by their names in its window, without the daemon's part. Raises
    VmFailed, KernelError.
    """
    network, window = engine.network(directory), mapping.find(directory)
    spec = machine.with_network(machine.vm_spec(pod, host, directory=directory), pod, host=host, network=network)
    assert isinstance(spec, VmSpec)
    placed = tuple(one for one in (window.images if window else ()) if one.name in images)
    pieces = tuple(in_window(directory, images))
    interfaces = network.interfaces if network else ()
    return Manifest(pod.memory_mib, _made_of(spec, pod, host=host), pieces, placed, interfaces, {})


def _made_of(vm: VmSpec, pod: Pod, *, host: Host) -> dict[str, str]:
    scratch_bytes = (pod.scratch_mib or host.scratch_mib) * MIB
    return template_key.parts(vm, scratch_bytes=scratch_bytes, host=template_key.this_host())


def take(
    directory: str,
    new: str,
    *,
    disk: str,
    is_awaited: "Awaited" = lambda: True,
    complete: "Callable[[], object]" = lambda: None,
) -> float:
    """Save the guest and its `disk`, if there is one, into files in `new`; the first one is there. `complete` is called
    when both are. The guest goes on in any case; seconds for which it was stopped. Raises TimedOut when it is not
    awaited any more, VmFailed, NoSpace, KernelError.
    """
    begun_s = time.monotonic()
    try:
        with medium.connected(directory, limit_s=LIMIT_S) as monitor:
            begun_s = time.monotonic()
            monitor.run("stop")
            medium.take_out(monitor)
            guest_file.write(monitor, f"{new}/{GUEST}", is_awaited=is_awaited)
            if disk:
                scratch.copy_sparse(disk, f"{new}/{DISK}", between=lambda: require(is_awaited))
            complete()
            medium.put_back(monitor, disk_bytes=machine.DISK_WINDOW_BYTES)
            monitor.run("cont")
    except BaseException as error:
        _go_on_after(error, directory)
        raise
    return time.monotonic() - begun_s


def _go_on_after(error: BaseException, directory: str) -> None:
    """Note that a guest which can't be resumed has ended; its pod learns that in the usual way."""
    try:
        go_on(directory)
    except VmFailed as second:
        error.add_note(f"and its guest could not be resumed: {second}")
