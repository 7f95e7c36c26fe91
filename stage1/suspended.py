# SPDX-License-Identifier: Apache-2.0
"""A pod whose guest is in a file: saved and its VMM ended, or loaded into a new VMM. Called by the daemon in worker
threads; requests to the guest before and after that are not made here.

In one moment the pod is suspended, when `suspended.json` is there in its directory: before, the guest goes on in the
VMM that it has (`go_on`), afterwards that is killed wherever it is found (`settle`), since the guest is in the file. It
is resumed when `suspended.json` is gone again, and only then the new VMM lets the guest run. So a kill at any time
leaves one guest. The file is root's, beside the pod's disk, and QEMU gets it as a descriptor.
"""

import json

from stage1 import engine, machine, placement
from stage1.engine import Host, Prepared
from stage1.errors import VmFailed, WrongState
from stage1.linux import beneath
from stage1.pod.model import Container, Pod
from stage1.rootfs import scratch
from stage1.rootfs.checkpoint import examined
from stage1.rootfs.flat import flatten
from stage1.vm import guest_file, mapping, medium
from stage1.vm.spec import QMP, VOLUMES, VmSpec
from stage1.vm.template_key import identity, is_same

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from stage1.rootfs.share import ImageFiles
    from stage1.vm.vmm import Vmm, VmProcess

FILE = "suspended.json"
"""The file in the pod's directory with what is needed to load the guest."""
ENDING = ".suspended"
"""Of the file with the guest, beside the disks of pods."""
LIMIT_S = 120.0
_VERSION = 1
Piece = tuple[str, int, int, str]
"""A file, its offset on the disk for images, its bytes, and its `identity`."""
_MOST_BYTES = 1 << 22
_OF_VMM = ("agent.sock", QMP, VOLUMES)


def is_there(directory: str) -> bool:
    """Whether the pod in `directory` is suspended."""
    with beneath.Root(directory) as own:
        return own.exists(FILE)


def save(directory: str, pod: Pod, *, host: Host, images: "Mapping[str, ImageFiles]") -> None:
    """Save the guest, with the images in its window, and end its VMM; then `is_there`. If it raises, the guest
    continues. Raises VmFailed, NoSpace, KernelError.
    """
    vm = engine.recorded_vm(directory)
    if vm is None:
        raise VmFailed(f"{directory} has no record of its VM, so it can't be suspended")
    document = _document(directory, pod, host=host, images=images)
    path = _make(directory, pod, host=host)
    try:
        with medium.connected(directory, limit_s=LIMIT_S) as monitor:
            monitor.run("stop")
            medium.take_out(monitor)
            guest_file.write(monitor, path)
        document["guest"] = examined(path)._asdict()
        with beneath.Root(directory) as own:
            own.write(FILE, json.dumps(document).encode())
    except BaseException:
        go_on(directory)
        raise
    vm.kill()
    engine.end_rest(directory)


def go_on(directory: str) -> None:
    """Let a guest run that `save` may have stopped, and forget what was saved of it. Idempotent. Raises VmFailed."""
    with medium.connected(directory) as monitor:
        monitor.run("migrate_cancel")
        guest_file.settled(monitor)
        medium.put_back(monitor, disk_bytes=machine.DISK_WINDOW_BYTES)
        monitor.run("cont")
    scratch.forget_guest(directory)


def settle(directory: str) -> None:
    """Finish a `save` or `load` that was killed: the pod is suspended, and has no VMM. Raises VmFailed."""
    vm = engine.find_vm(directory)
    if vm is not None:
        vm.kill()
    engine.end_rest(directory)


def load(directory: str, pod: Pod, *, host: Host, vmm: "Vmm", containers: "Iterable[Container]" = ()) -> "VmProcess":
    """Begin a VM and load the guest, which runs when this returns; the volumes of `containers` are there again. When it
    raises, the pod is still suspended. Raises WrongState when this host would make another machine of the pod now,
    VmFailed, KernelError, and as `engine.add_container`.
    """
    document = _read(directory)
    network = engine.network(directory)
    spec = machine.with_network(machine.vm_spec(pod, host, directory=directory), pod, host=host, network=network)
    assert isinstance(spec, VmSpec)
    _check(document, spec)
    path = f"{host.state_dir}/scratch/{pod.id}{ENDING}"
    _check_guest(path, document.get("guest"))
    settle(directory)
    with beneath.Root(directory) as own:
        for name in _OF_VMM:
            own.unlink(name)
    vm, note = placement.add(spec._replace(is_resumed=True), pod, host=host, directory=directory)
    try:
        started, _ = engine.boot(Prepared(pod, directory, vm, b"", network, note), vmm)
        with medium.connected(directory, limit_s=LIMIT_S) as monitor:
            guest_file.read(monitor, path, vm=started)
            pieces = [(file, offset, size) for file, offset, size, _ in document["pieces"]]
            medium.add(monitor, pieces, disk_bytes=vm.window_bytes)
            _attach(directory, pod, containers=containers)
            with beneath.Root(directory) as own:
                own.unlink(FILE)
            monitor.run("cont")
    except BaseException:
        if is_there(directory):
            settle(directory)
        raise
    scratch.forget_guest(directory)
    return started


def _make(directory: str, pod: Pod, *, host: Host) -> str:
    path = f"{host.state_dir}/scratch/{pod.id}{ENDING}"
    scratch.note(directory, scratch.GUEST_LINK, path=path)
    guest_file.make(path)
    return path


def _attach(directory: str, pod: Pod, *, containers: "Iterable[Container]") -> None:
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


def _document(directory: str, pod: Pod, *, host: Host, images: "Mapping[str, ImageFiles]") -> "dict[str, Any]":
    spec = machine.vm_spec(pod, host, directory=directory)
    return {"v": _VERSION, "made_of": _made_of(spec), "pieces": in_window(directory, images)}


def in_window(directory: str, images: "Mapping[str, ImageFiles]") -> list[Piece]:
    """The offsets in the pod's window of these images, by their names there. Raises VmFailed, KernelError."""
    window, pieces = mapping.find(directory), []
    for place in window.images if window else ():
        if place.name in images:
            for path, offset, size in flatten(images[place.name]):
                pieces.append((path, place.offset + offset, size, identity(path)))
    return pieces


def _made_of(vm: VmSpec) -> dict[str, str]:
    """The properties that a new VMM must share with the old one."""
    booted = {"kernel": vm.kernel, "initramfs": vm.initramfs, "system image": vm.system_image}
    return {name: identity(path) for name, path in (*booted.items(), (vm.hypervisor.title, vm.binary))}


def _check(document: "dict[str, Any]", vm: VmSpec) -> None:
    for name, value in _made_of(vm).items():
        if document["made_of"].get(name) != value:
            raise WrongState(
                f"the pod was suspended with another {name} than this host has now, so it can't be resumed; delete "
                "the pod, so that it is created again"
            )
    for path, _, _, was in document["pieces"]:
        if not is_same(path, was):
            raise WrongState(f"{path}, of an image of the pod, was replaced, so it can't be resumed; delete the pod")


def _check_guest(path: str, was: "Any") -> None:
    """Raise WrongState unless the file is there, and is what was saved: a guest whose memory is damaged would go on
    with it. Earlier versions did not write down what it `was`.
    """
    why = "" if guest_file.exists(path) else "is gone"
    if not why and was and examined(path)._asdict() != was:
        why = "was changed or damaged"
    if why:
        raise WrongState(f"{path}, with the pod's guest, {why}, so it can't be resumed; delete the pod")


def _read(directory: str) -> "dict[str, Any]":
    try:
        with beneath.Root(directory) as own:
            document: dict[str, Any] = json.loads(own.read(FILE, most=_MOST_BYTES, ours=True))
        if document["v"] != _VERSION or not isinstance(document["made_of"], dict):
            raise ValueError
        document["pieces"] = [(str(a), int(b), int(c), str(d)) for a, b, c, d in document["pieces"]]
    except FileNotFoundError:
        raise WrongState("the pod is not suspended") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise VmFailed(f"{directory}/{FILE} is damaged; delete the pod, so that it is created again") from None
    return document
