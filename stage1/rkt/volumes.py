# SPDX-License-Identifier: Apache-2.0
"""The mount point of each volume in an app. Examines the host's sources; makes nothing. Called by plan.

The pod's `mounts` come first, then the image's `mountPoints`; of the latter, those that the pod has no volume for get
empty ones, made just for the app.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

from stage1.errors import BadRequest, NotFound
from stage1.pod.model import Mount
from stage1.rkt import inside
from stage1.rkt.manifest import EMPTY, Entry, MountPoint, Volume

SHARED = "sharedVolumes"
_NULL = "/dev/null"
"""crun would take a file there for the app's streams."""


class EmptyVolume(NamedTuple):
    """A directory for apps of one pod: `path` on the host, made by `make.empty_volume`, is how it begins.

    What apps change is on the pod's own disk. With `root` and `inside` a new one gets what the image has at `inside`,
    with owners and modes.
    """

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    root: str = ""
    inside: str = ""

    @property
    def name(self) -> str:
        """The volume's."""
        return os.path.basename(self.path)


class Volumes(NamedTuple):
    """The volumes of one app."""

    mounts: tuple[Mount, ...] = ()
    empty: tuple[EmptyVolume, ...] = ()
    warnings: tuple[str, ...] = ()


def of_app(entry: Entry, shared: Mapping[str, Volume], *, pod_dir: str, root: str) -> Volumes:
    """The app's mounts. `shared` are the pod's volumes, `root` is the app's root.

    Raises BadRequest when a volume is not in the manifest, NotFound when its source is not on the host.
    """
    asked = {point.name: point.read_only for point in reversed(entry.mount_points)}
    mounts, empty, warnings = [], [], []
    for mounted in entry.mounts:
        volume = mounted.own or shared.get(mounted.volume)
        if volume is None:
            there = f"there are: {', '.join(sorted(shared))}" if shared else "it has none"
            raise BadRequest(
                f"{entry.where}: the volume {mounted.volume!r} for {mounted.path} is not in the pod manifest; {there}"
            )
        mounts.append(_mount(volume, mounted.path, entry=entry, pod_dir=pod_dir, asked=asked.get(volume.name, False)))
        empty += _empty(volume, pod_dir=pod_dir)
    taken = {mount.target for mount in mounts}
    for point in entry.mount_points:
        target = _target(point.path, entry=entry)
        if target in taken:
            continue
        volume = shared.get(point.name)
        if volume is None:
            volume = _implicit(entry, point)
            warnings.append(
                f"{entry.where}: no volume for the mount point {point.name!r} at {point.path}; it gets an empty one"
            )
            empty += _filled(entry, point, made=_empty(volume, pod_dir=pod_dir), root=root)
        else:
            empty += _empty(volume, pod_dir=pod_dir)
        mounts.append(_mount(volume, point.path, entry=entry, pod_dir=pod_dir, asked=point.read_only))
    return Volumes(tuple(mounts), tuple(empty), tuple(warnings))


def inside_of(name: str) -> str:
    """The id of the container whose root the empty volume is, in the guest. With a dot, as no app has it."""
    return f"{name}.volume"


def _implicit(entry: Entry, point: MountPoint) -> Volume:
    return Volume(f"{entry.name}-{point.name}", EMPTY)


def _mount(volume: Volume, path: str, *, entry: Entry, pod_dir: str, asked: bool) -> Mount:
    """`asked`: whether the image requests it read-only, which counts when the volume has no setting."""
    read_only = asked if volume.read_only is None else volume.read_only
    source = f"{pod_dir}/{SHARED}/{volume.name}" if volume.kind == EMPTY else os.path.realpath(volume.source)
    if volume.kind != EMPTY and not os.path.exists(source):
        raise NotFound(
            f"{entry.where}: the volume {volume.name!r} is {volume.source}, which is not on this host; make it first"
        )
    target = _target(path, entry=entry)
    if target == _NULL and (volume.kind == EMPTY or os.path.isfile(source) or os.path.isdir(source)):
        raise BadRequest(f"{entry.where}: a volume can't be at {_NULL}, which is a device; give another path")
    return Mount(
        source=source,
        target=target,
        read_only=read_only,
        recursive_read_only=read_only and volume.recursive,
        recursive=volume.recursive,
        inside=inside_of(volume.name) if volume.kind == EMPTY else "",
    )


def _target(path: str, *, entry: Entry) -> str:
    clean = "/" + os.path.normpath(path).lstrip("/")
    if clean == "/":
        raise BadRequest(f"{entry.where}: a volume can't be at /, which is the app's own root")
    return clean


def _empty(volume: Volume, *, pod_dir: str) -> list[EmptyVolume]:
    if volume.kind != EMPTY:
        return []
    return [EmptyVolume(f"{pod_dir}/{SHARED}/{volume.name}", volume.mode, volume.uid, volume.gid)]


def _filled(entry: Entry, point: MountPoint, *, made: list[EmptyVolume], root: str) -> list[EmptyVolume]:
    """Fill a new volume with the files that the image has at its place, as Docker does, for images converted from
    Docker.
    """
    if not entry.is_from_docker or inside.status(root, point.path) is None:
        return made
    return [one._replace(root=root, inside=point.path) for one in made]
