# SPDX-License-Identifier: Apache-2.0
"""Volumes of the host that a guest mounts by FUSE. Each source is mounted once, at `share/volumes/sources/<name>` in
the mount namespace of the volume server (vm/volume_server.py), however many containers have it. So it is one file
system for the guest, and containers share its locks and sockets. Called by the engine.
docs/design/volumes.md has the reasons.

The file `host_volumes` in a container's bundle, which the guest reads too (images/volumes/host.h), has one line with a
name for each of the container's volumes, and before them `port NUMBER` if the guest connects by vsock. Blocking; all
changes are made under a lock of the pod.
"""

import os
from functools import partial

from stage1 import placement
from stage1.errors import KernelError, VmFailed, WrongState
from stage1.linux import beneath, flock, in_root, mount, namespace, process
from stage1.pod.model import BIDIRECTIONAL, HOST_TO_CONTAINER, PRIVATE, Container, Mount, Pod
from stage1.rootfs import unmounting, volumes
from stage1.rootfs.owners import Owners
from stage1.vm import record, volume_server

HOST_VOLUMES, SOURCES = "host_volumes", "volumes/sources"
_LOCK = "volumes.lock"
_CONTAINERS = "tree/volumes/containers"
_MOST_BYTES = 1 << 20
_LIMIT_S = 60.0
_ENDED = "the server of the pod's volumes has ended, so its virtual machine ends too; create the pod again"
_FLOWS = {PRIVATE: "p", HOST_TO_CONTAINER: "s", BIDIRECTIONAL: "b"}
_SUBPATHS = "/volume-subpaths/"
"""The kubelet binds what a container has of a volume to a place of its own below such a directory."""


def add(directory: str, pod: Pod, *, container: Container, mapped: Owners) -> Container:
    """Mount the container's volumes of the host that are not there yet, and start their server if it does not run.
    Return the container with their names, where `read_only` are those that its guest has to protect, since others may
    write to them; its bundle must exist. Undo: `remove`.

    Raises as `volumes.attach_all`, and as `volume_server.start`.
    """
    shown = [one for one in container.mounts if one.is_of_host]
    if not shown:
        return container
    with _locked(directory):
        entry = _running(directory)
        try:
            named = _add(directory, pod, container=container, mapped=mapped, entry=entry)
        except KernelError as error:
            if _is_alive(entry):
                raise
            raise VmFailed(_ENDED) from error
    if any(not one.read_only for one in shown):
        placement.grow(directory, _pid(entry), memory_bytes=entry.memory_bytes)
    return named


def _add(directory: str, pod: Pod, *, container: Container, mapped: Owners, entry: record.Record) -> Container:
    mounts, new = list(container.mounts), dict[str, tuple[Mount, str, int]]()
    for number, volume in enumerate(container.mounts):
        if not volume.is_of_host:
            continue
        name, is_new = _named(volume, pod, directory=directory, pid=_pid(entry))
        is_held = _is_held_by_host(name)
        mounts[number] = volume._replace(shared_as=name, read_only=volume.read_only and not is_held)
        if is_new:
            bound = volume if is_held else volume._replace(read_only=False)
            new[name] = (bound, f"{SOURCES}/{name}", mapped.of(volume))
    container = container._replace(mounts=tuple(mounts))
    # What the guest is listed first is unmounted by `remove`, whatever happens to the rest.
    _write(directory, container, port=entry.port)
    volumes.attach_all([*new.values()], directory, pid=_pid(entry))
    return container


def remove(directory: str, container_id: str) -> None:
    """Unmount what only this container has used; its bundle is still there. Idempotent."""
    with beneath.Root(directory, one_mount=True) as own:
        if not own.exists(f"{_CONTAINERS}/{container_id}/{HOST_VOLUMES}"):
            return
    with _locked(directory):
        mine = set(names(directory, container_id))
        with beneath.Root(directory, one_mount=True) as own:
            others = [name for name in own.names(_CONTAINERS) if name != container_id]
        for name in mine.difference(*(names(directory, other) for other in others)):
            _unmount(directory, name)
        with beneath.Root(directory, one_mount=True) as own:
            own.unlink(f"{_CONTAINERS}/{container_id}/{HOST_VOLUMES}")


def server_pid(directory: str) -> int:
    """The pid of the server of the pod's volumes; 0 when it does not run."""
    entry = record.read(directory)
    return _pid(entry) if entry and _is_alive(entry) else 0


def _pid(entry: record.Record) -> int:
    return entry.vmm.server[0] if entry.vmm.server else 0


def _locked(directory: str) -> flock.Lock:
    return flock.Lock(f"{directory}/{_LOCK}", limit_s=_LIMIT_S)


def _running(directory: str) -> record.Record:
    """The record of the pod's VM with a server that runs. Raises WrongState, VmFailed."""
    entry = record.read(directory)
    if entry is None or not entry.vmm.alive():
        raise WrongState("the virtual machine of the pod has ended, so it can't have volumes; create the pod again")
    if entry.vmm.server:
        if not _is_alive(entry):
            raise VmFailed(_ENDED)
        return entry
    root, cgroups = f"{directory}/share/{SOURCES}", placement.cgroups(directory)
    made = volume_server.start(directory, entry, cgroups=cgroups, root=root)
    entry = entry.with_server(entry.volume_server, (made.pid, made.start_time), port=made.port)
    try:
        record.write(directory, entry)
    except BaseException:
        with process.hold(made.pid) as handle:
            handle.kill()
            handle.wait(_LIMIT_S)
        raise
    return entry


def _is_alive(entry: record.Record) -> bool:
    handle = process.open_process(*entry.vmm.server) if entry.vmm.server else None
    if handle is None:
        return False
    with handle:
        return not handle.wait(0)


def _named(volume: Mount, pod: Pod, *, directory: str, pid: int) -> tuple[str, bool]:
    """The name for the volume, and whether nothing is mounted there yet: of the source, of how it is mounted, and of
    what is mounted below it now. One that was mounted before that is the same only while what is below it is.
    """
    name = _name(volume, pod)
    for number in range(1 << 16):
        one = f"{name}.{number}" if number else name
        shown = f"share/{SOURCES}/{one}"
        with beneath.Root(directory, one_mount=True) as own:
            if not own.exists(f"tree/{SOURCES}/{one}"):
                return one, True
        there = namespace.in_mounts_of(pid, partial(_below, directory, shown))
        if there is None:
            return one, True
        if not volume.recursive or there == mount.file_systems_below(volume.source):
            return one, False
    raise WrongState(f"the volume {volume.source} is mounted too often; delete the pod, so that it is created again")


def _below(directory: str, at: str) -> dict[str, tuple[str, str]] | None:
    """What is mounted below there; None when nothing is mounted there itself."""
    return mount.file_systems_below(directory, below=at) if mount.is_mount_point(directory, below=at) else None


def _name(volume: Mount, pod: Pod) -> str:
    """Read-only is enforced on the host, so such a mount is one of its own; but an emptyDir is the pod's alone, and its
    containers have it together.
    """
    fd = in_root.open_straight(volume.source, flags=os.O_PATH)
    try:
        status = os.fstat(fd)
        number = "" if _SUBPATHS in volume.source else mount.number(fd).decode()
    finally:
        os.close(fd)
    is_own = bool(pod.uid) and f"/pods/{pod.uid}/volumes/kubernetes.io~empty-dir/" in f"{volume.source}/"
    kind = _FLOWS[volume.propagation] + ("m" if volume.mapped else "") + ("" if volume.recursive else "n")
    if volume.read_only and not is_own:
        kind += "R" if volume.recursive_read_only else "r"
    return f"{status.st_dev:x}-{status.st_ino:x}-{number}-{kind}"


def _is_held_by_host(name: str) -> bool:
    """Whether its mount on the host is read-only."""
    kind = name.partition(".")[0].rpartition("-")[2]
    return "r" in kind or "R" in kind


def _write(directory: str, container: Container, *, port: int) -> None:
    lines = [f"port {port}"] if port else []
    lines += [one.shared_as for one in container.mounts if one.shared_as]
    text = "".join(f"{line}\n" for line in lines)
    with beneath.Root(directory, one_mount=True) as own:
        own.write(f"{_CONTAINERS}/{container.id}/{HOST_VOLUMES}", text.encode(), 0o644)


def names(directory: str, container_id: str) -> list[str]:
    """The names of the container's volumes, in the order of its mounts; empty when it has none or is gone."""
    try:
        with beneath.Root(directory, one_mount=True) as own:
            text = own.read(f"{_CONTAINERS}/{container_id}/{HOST_VOLUMES}", most=_MOST_BYTES, ours=True)
    except FileNotFoundError:
        return []
    return [line for line in text.decode().splitlines() if line and " " not in line]


def _unmount(directory: str, name: str) -> None:
    pid = server_pid(directory)
    try:
        if pid:
            namespace.in_mounts_of(pid, lambda: unmounting.alone(directory, f"share/{SOURCES}/{name}"))
    except FileNotFoundError:
        pass  # it has ended just now, and its mounts with it
    try:
        with beneath.Root(directory, one_mount=True) as own:
            place = f"tree/{SOURCES}/{name}"
            unmounting.freed(f"{directory}/{place}", lambda: own.remove_tree(place))
    except FileNotFoundError:
        pass
