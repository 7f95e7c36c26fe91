# SPDX-License-Identifier: Apache-2.0
"""Saves a guest, and its disk, into files: `take` is how, and `save` is for a pod that goes on, `suspend` for one whose
VM ends, `template` for none. Called in worker threads; what is asked of the guest before and after is not here.

A snapshot appears in one moment, by a rename that comes last, and is only read then. All of
it is root's, mode 0700: it has all secrets of the pod.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stage1 import engine, machine, prewarmed
from stage1.engine import Host, Prepared
from stage1.errors import AlreadyExists, PodError, TimedOut, VmFailed
from stage1.guest.direct_client import DirectClient
from stage1.guest.messages import Create, Delete, Op, Start
from stage1.guest.settings import warm_ups
from stage1.linux import beneath, files
from stage1.linux.libc import Guard
from stage1.machine import MIB
from stage1.pod.model import Pod
from stage1.rootfs import scratch
from stage1.rootfs.checkpoint import DISK, GUEST, MANIFEST, Awaited, examined, make, require
from stage1.rootfs.flat import flatten
from stage1.rootfs.share import ImageFiles
from stage1.snapshot.format import Manifest, Piece
from stage1.snapshot.machine import TemplateSpec, booted, identity, lack, parts, spec_of, this_host
from stage1.snapshot.store import TemplateStore
from stage1.vm import mapping, medium
from stage1.vm.monitor import Monitor, save_guest, settled
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.template import Template
from stage1.vm.vmm import Vmm

FORKS = "forks"
"""The directory below the state directory for copies that are being made."""
SUSPENDED = "suspended.json"
"""The manifest of a suspended pod's guest, in the pod's directory: the pod is suspended while it is there."""
ENDING = ".suspended"
"""Of the file with that guest, beside the disks of pods."""
LIMIT_S = 120.0
_NEW = ".new"
_CONTAINER: tuple[Op, ...] = (Create("warm-up", "warm-up", tmpfs=True), Start("warm-up"), Delete("warm-up"))
"""The warm-up before a template is saved: crun is loaded, finds no configuration, and is removed with its root."""


class Files(NamedTuple):
    """Where a guest is saved, in a file that is there, and the copy of its disk `of_disk`, if it has one."""

    guest: str
    disk: str = ""
    of_disk: str = ""


class Target(NamedTuple):
    """Where a guest is saved: with a `manifest` into the new directory `path`, which appears when all files are there,
    and `written` is called then, while the guest is still stopped. Without one into `path` itself, which is there
    (`rootfs.checkpoint.begin`), as long as `is_awaited` says so.
    """

    path: str
    manifest: bytes = b""
    written: Callable[[], object] = lambda: None
    is_awaited: Awaited = lambda: True


def take(
    directory: str,
    into: Files,
    *,
    is_awaited: Awaited = lambda: True,
    complete: Callable[[], object] = lambda: None,
    keep_running: bool = True,
) -> float:
    """Save the guest of the pod in `directory`, and call `complete` when all files are there. The guest goes on after
    that with `keep_running`, and after an error always; seconds for which it was stopped. Raises TimedOut when it is
    not awaited any more, VmFailed, NoSpace, KernelError.
    """
    begun_s = time.monotonic()
    try:
        with medium.connected(directory, limit_s=LIMIT_S) as monitor:
            begun_s = time.monotonic()
            monitor.run("stop")
            medium.take_out(monitor)
            save_guest(monitor, into.guest, is_awaited=is_awaited)
            if into.of_disk:
                scratch.copy_sparse(into.of_disk, into.disk, between=lambda: require(is_awaited))
            complete()
            if keep_running:
                medium.put_back(monitor, disk_bytes=machine.DISK_WINDOW_BYTES)
                monitor.run("cont")
    except BaseException as error:
        try:
            go_on(directory)
        except VmFailed as second:  # a guest that has ended; its pod learns that in the usual way
            error.add_note(f"and its guest could not be resumed: {second}")
        raise
    return time.monotonic() - begun_s


def go_on(directory: str) -> None:
    """Let a guest run that `take` may have stopped, and forget what was saved of it. Idempotent. Raises VmFailed."""
    with medium.connected(directory) as monitor:
        monitor.run("migrate_cancel")
        settled(monitor)
        medium.put_back(monitor, disk_bytes=machine.DISK_WINDOW_BYTES)
        monitor.run("cont")
    scratch.forget_guest(directory)


def describe(directory: str, pod: Pod, *, host: Host, images: Mapping[str, ImageFiles]) -> Manifest:
    """Return the manifest of the pod's guest, with `images` by their names in its window, without its maker's part.
    Raises VmFailed, KernelError.
    """
    network, window = engine.network(directory), mapping.find(directory)
    spec = machine.with_network(machine.vm_spec(pod, host, directory=directory), pod, host=host, network=network)
    assert isinstance(spec, VmSpec)
    return Manifest(
        parts_of(spec, pod, host=host),
        memory_mib=pod.memory_mib,
        pieces=tuple(_in_window(directory, images)),
        images=tuple(one for one in (window.images if window else ()) if one.name in images),
        interfaces=network.interfaces if network else (),
    )


def parts_of(vm: VmSpec, pod: Pod, *, host: Host) -> dict[str, str]:
    """What the pod's VM is made of. Raises BadRequest, KernelError."""
    return parts(vm, scratch_bytes=(pod.scratch_mib or host.scratch_mib) * MIB, host=this_host())


def _in_window(directory: str, images: Mapping[str, ImageFiles]) -> list[Piece]:
    """The offsets in the pod's window of these images, by their names there. Raises VmFailed, KernelError."""
    window, pieces = mapping.find(directory), []
    for place in window.images if window else ():
        if place.name in images:
            for path, offset, size in flatten(images[place.name]):
                pieces.append((path, place.offset + offset, size, identity(path)))
    return pieces


def write_back(directory: str, pod: Pod, *, host: Host, near: str) -> bool:
    """Write back, before the guest is saved into the directory `near` or one in it, what of its disk would have to be
    written while it is stopped. Return whether its disk will take space there. Raises KernelError.
    """
    files.make_dirs(near, 0o700)
    disk = machine.vm_spec(pod, host, directory=directory).scratch
    return bool(disk) and not scratch.write_back(disk, near)


def save(directory: str, pod: Pod, *, host: Host, target: Target) -> float:
    """Save the guest of the pod in `directory`, and its disk. The guest goes on in any case; seconds for which it was
    stopped. Raises AlreadyExists, TimedOut when it is not awaited any more, VmFailed, NoSpace, KernelError; nothing is
    left of a new directory then.
    """
    path, disk = target.path, machine.vm_spec(pod, host, directory=directory).scratch
    if not target.manifest:
        return take(directory, Files(f"{path}/{GUEST}", f"{path}/{DISK}", disk), is_awaited=target.is_awaited)
    if os.path.lexists(path):
        raise AlreadyExists(f"{path} exists; a guest is saved into a new directory")
    new = f"{path}{_NEW}"
    files.make_dirs(os.path.dirname(path), 0o700)
    remove(new)
    with Guard("make", new):
        os.mkdir(new, 0o700)

    def appear() -> None:
        with Guard("rename", new):
            os.rename(new, path)
        target.written()

    try:
        files.write_atomic(f"{new}/{MANIFEST}", target.manifest)
        make(f"{new}/{GUEST}")
        return take(directory, Files(f"{new}/{GUEST}", f"{new}/{DISK}", disk), complete=appear)
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


def measured(manifest: Manifest, path: str, *, is_awaited: Awaited) -> Manifest:
    """The manifest with the digests of the files in `path`, for which the guest need not stand still. Raises TimedOut,
    KernelError.
    """
    there = [name for name in (GUEST, DISK) if os.path.lexists(f"{path}/{name}")]
    return manifest._replace(files={name: examined(f"{path}/{name}", is_awaited) for name in there})


def suspend(directory: str, pod: Pod, *, host: Host, images: Mapping[str, ImageFiles]) -> None:
    """Save the guest, with the images in its window, and end its VMM; the pod is suspended then. If it raises before,
    the guest continues. Raises VmFailed, NoSpace, KernelError.
    """
    vm = engine.recorded_vm(directory)
    if vm is None:
        raise VmFailed(f"{directory} has no record of its VM, so it can't be suspended")
    spec = machine.vm_spec(pod, host, directory=directory)
    manifest = Manifest(booted(spec), pieces=tuple(_in_window(directory, images)))
    path = suspended_guest(pod, host)
    scratch.note(directory, scratch.GUEST_LINK, path=path)
    files.unlink(path)
    make(path)

    def appear() -> None:
        with beneath.Root(directory) as own:
            own.write(SUSPENDED, manifest._replace(files={GUEST: examined(path)}).encode())

    take(directory, Files(path), complete=appear, keep_running=False)
    vm.kill()
    engine.end_rest(directory)


def suspended_guest(pod: Pod, host: Host) -> str:
    """The path of the file with the guest of the pod while it is suspended."""
    return f"{host.state_dir}/scratch/{pod.id}{ENDING}"


def template_spec(prepared: Prepared, host: Host) -> TemplateSpec | None:
    """None when the pod's VM can't be a copy of any. Raises BadRequest, KernelError."""
    pod, vm = prepared.pod, prepared.vm
    if not isinstance(vm, VmSpec):
        return None
    scratch_bytes = (pod.scratch_mib or host.scratch_mib) * MIB
    # An agent with apps of rkt's mounts it later, and what a guest has written to is never read.
    is_mounted = vm.scratch and not vm.console_attached and not lack(pod, vm)
    return spec_of(pod, vm, scratch_bytes=scratch_bytes, disk=scratch.uuid(vm.scratch) if is_mounted else "")


def template(spec: TemplateSpec, host: Host, *, vmm: Vmm, store: TemplateStore, limit_s: float) -> Template:
    """Boot a VM by `vmm` and save it. Raises VmFailed, also when the VM is ended meanwhile, TimedOut, and what
    `engine.prepare` does; nothing is left then.
    """
    host = host if spec.vm.nics else host._replace(network=None)
    prepared = _alike(prewarmed.prepare(_nobodys(spec.pod), host, devices=len(spec.vm.nics)), spec.vm)
    try:
        same = template_spec(prepared, host)
        if same is None or same.made_of != spec.made_of:
            raise VmFailed("a template can't be made: its VM would differ from the pod's")
        new = store.prepare(spec.name, spec.vm.memory_mib * MIB)
        try:
            _boot_and_save(prepared, same.vm, template=new, vmm=vmm, limit_s=limit_s)
            return store.commit(spec.name, spec.made_of)
        finally:
            store.abandon(spec.name)
    finally:
        engine.clean_up(prepared.directory)


def _alike(prepared: Prepared, vm: VmSpec) -> Prepared:
    """Return the template's VM with what a front end adds to the VMs of its pods."""
    made = prepared.vm
    assert isinstance(made, VmSpec)
    read_only = {share.tag: share.read_only for share in vm.shares}
    shares = tuple(share._replace(read_only=read_only.get(share.tag, share.read_only)) for share in made.shares)
    same = made._replace(console_attached=vm.console_attached, memory_shim=vm.memory_shim, shares=shares)
    return prepared._replace(vm=same._replace(volume_server=vm.volume_server))


def _boot_and_save(prepared: Prepared, vm: VmSpec, *, template: Template, vmm: Vmm, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    ours, theirs = socket.socketpair()
    with Monitor(ours.detach(), limit_s=limit_s) as monitor, theirs:
        vm = vm._replace(template=template._replace(monitor=theirs.fileno()))
        engine.boot(prepared._replace(vm=vm), vmm)
        theirs.close()
        assert isinstance(vm.link, SerialLink)
        with DirectClient(vm.link.socket, limit_s=until - time.monotonic()) as client:
            for warm_up in warm_ups(prepared.network):
                client.call(warm_up)
            for op in _CONTAINER:
                _try(client, op)
        _write_state(monitor, template)
        monitor.quit()


def _try(client: DirectClient, op: Op) -> None:
    """Best-effort: what does not succeed has warmed up less. Raises VmFailed, TimedOut."""
    try:
        client.call(op)
    except (VmFailed, TimedOut):
        raise
    except PodError:
        pass


def _write_state(monitor: Monitor, template: Template) -> None:
    fd = os.open(template.state, os.O_WRONLY | os.O_CLOEXEC)
    try:
        monitor.save(fd)
    finally:
        os.close(fd)


def _nobodys(pod: Pod) -> Pod:
    """A pod whose VM is the same, and that has nothing else of it."""
    pod_id = secrets.token_hex(32)
    kept = ("memory_mib", "vcpus", "online_vcpus", "kernel", "scratch_mib", "window_mib", "hypervisor")
    return Pod(id=pod_id, name=pod_id[:13], namespace="templates", **{one: getattr(pod, one) for one in kept})
