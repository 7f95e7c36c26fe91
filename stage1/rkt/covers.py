# SPDX-License-Identifier: Apache-2.0
"""Checks of what an app's volumes cover: the kernel's protected paths, the pod's files in /etc. Called by loader.
Looks at volumes' sources on the host; changes nothing.
"""

from stage1.errors import BadRequest, KernelError
from stage1.linux import beneath
from stage1.pod.model import CGROUPS, Container, Mount, Security, Tmpfs

_ETC = "/etc"


def uncovered(container: Container) -> Container:
    """The container whose masks do not hide its volumes: where one lies below a masked path, that is an empty directory
    with the volume in it; so is that of the cgroups, which an app reads for its limits. Nothing else of the kernel's is
    seen that was not. Where a volume has the place of a device, at /dev/net, there is none.
    """
    targets = [mount.target for mount in container.mounts]
    masked = [path for path in container.security.masked_paths if not _is_within(path, targets)]
    seen = [*targets, CGROUPS]
    parents = [path for path in masked if any(_is_within(target, [path]) for target in seen)]
    security = container.security._replace(
        masked_paths=tuple(path for path in masked if path not in parents),
        readonly_paths=_left(container.security, targets),
    )
    empty = tuple(Tmpfs(path, ("ro", "noexec", "mode=555")) for path in parents)
    covering = [target for target in targets if target != "/dev"]  # that one gets the usual devices
    devices = tuple(one for one in container.devices if not _is_within(one.path, covering))
    return container._replace(security=security, tmpfs=(*container.tmpfs, *empty), devices=devices)


def _left(security: Security, targets: list[str]) -> tuple[str, ...]:
    return tuple(path for path in security.readonly_paths if not _is_within(path, targets))


def _is_within(path: str, places: list[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def shown_over(container: Container, kept: tuple[str, ...], *, asked: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Which of the pod's own files are shown over a volume at /etc: those `asked` for, and all where it is the pod's
    own volume, which has none of the host's files. Raises BadRequest when there is no place for one.
    """
    volume = next((mount for mount in container.mounts if mount.target == _ETC), None)
    if volume is not None and volume.inside:
        return kept
    over = tuple(name for name in kept if name in asked)
    for name in over:
        if volume is not None and volume.read_only and not _has_place(volume, name, container=container):
            raise BadRequest(
                f"{where}: its volume at /etc is read-only and has no {name}, so the requested one can't be"
                f" shown; make the file {volume.source}/{name}, or leave out the options for it (--dns, --hosts-entry)"
            )
    return over


def _has_place(volume: Mount, name: str, *, container: Container) -> bool:
    if f"{_ETC}/{name}" in [one.target for one in container.mounts]:
        return True
    try:
        with beneath.Root(volume.source) as source:
            return source.exists(name)
    except KernelError:
        return False
