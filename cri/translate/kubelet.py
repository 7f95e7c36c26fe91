# SPDX-License-Identifier: Apache-2.0
"""Where the kubelet keeps a pod's volumes on this host, and which of them a path is. Called by RunPodSandbox and by
`guest_volumes`.

It goes by names alone: `<root>/pods/<uid>/volumes/kubernetes.io~empty-dir/<name>`, and for a subPath a bind of what is
below that at `<root>/pods/<uid>/volume-subpaths/...`. Looks at the host's files and mounts; changes nothing.
"""

import os
import re
import stat
from typing import NamedTuple

from stage1.errors import BadRequest, PodError
from stage1.linux import beneath, mount

EMPTY = "kubernetes.io~empty-dir"
FILES = frozenset(f"kubernetes.io~{name}" for name in ("configmap", "secret", "projected", "downward-api"))
"""The kinds of volumes that the kubelet writes itself, and replaces atomically by one link."""
HOSTS = "etc-hosts"
TERMINATION_LOG = "containers"
_IN_CONTAINER = re.compile(r"[^/]+/[0-9a-f]{8}")
"""Its path below that: the container's name, and a number that the kubelet draws for each of its starts."""
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST = 256


class Volume(NamedTuple):
    """`kind` is EMPTY, one of FILES, HOSTS, TERMINATION_LOG or another plugin's; `below` a path in the volume, for a
    subPath.
    """

    kind: str
    name: str = ""
    below: str = ""


def pod_directory(root: str, uid: str) -> str:
    """The kubelet's directory of the pod, without links; empty when there is none. Blocks."""
    path = f"{os.path.realpath(root)}/pods/{uid}"
    return path if _UID.fullmatch(uid) and os.path.isdir(path) and not os.path.islink(path) else ""


class EmptyDirs(NamedTuple):
    """The names of a pod's emptyDirs without files: plain directories, and those in memory."""

    plain: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()


def empty_dirs(directory: str) -> EmptyDirs:
    """Return the emptyDirs of the pod that have no files yet; directories are what the kubelet makes for a subPath. One
    of huge pages is in neither list. Blocks.
    """
    place = f"{directory}/volumes/{EMPTY}"
    try:
        with beneath.Root(place) as root:
            names = sorted(root.names(most=_MOST))
    except FileNotFoundError:
        return EmptyDirs()
    empty = [name for name in names if _is_empty(f"{place}/{name}")]
    mounted = {name for name in empty if mount.is_mount_point(f"{place}/{name}")}
    memory = tuple(name for name in empty if name in mounted and mount.type_of(f"{place}/{name}") == "tmpfs")
    return EmptyDirs(tuple(name for name in empty if name not in mounted), memory)


def _is_empty(path: str) -> bool:
    try:
        return not files_below(path, most=_MOST)
    except (PodError, OSError):
        return False  # no directory, or more in it than the kubelet would make


def files_below(path: str, *, most: int) -> list[os.stat_result]:
    """The status of all that is no directory. Blocks. Raises PodError: no directory, another mount in it, or more than
    `most` entries.
    """
    result, waiting, left = [], ["."], most
    with beneath.Root(path, one_mount=True) as root:
        while waiting:
            at = waiting.pop()
            names = root.names(at, most=left + 1)
            left -= len(names)
            if left < 0:
                raise BadRequest(f"{path} has more than {most} files and directories")
            for name in names:
                status = root.stat(f"{at}/{name}")
                if status is not None and stat.S_ISDIR(status.st_mode):
                    waiting.append(f"{at}/{name}")
                elif status is not None:
                    result.append(status)
    return result


def volume(source: str, directory: str) -> Volume | None:
    """Which volume of the pod's the path is, in the pod's `directory`; None for any other. Blocks for a subPath."""
    if not source.startswith(f"{directory}/"):
        return None
    what, _, rest = source.removeprefix(f"{directory}/").partition("/")
    if what == HOSTS and not rest:
        return Volume(HOSTS)
    if what == TERMINATION_LOG and _IN_CONTAINER.fullmatch(rest):
        return Volume(TERMINATION_LOG)
    if what == "volume-subpaths":
        return _of_subpath(source, directory)
    return _parsed(rest) if what == "volumes" else None


def _parsed(path: str) -> Volume | None:
    kind, _, rest = path.partition("/")
    name, _, below = rest.partition("/")
    return Volume(kind, name, below) if name else None


def _of_subpath(source: str, directory: str) -> Volume | None:
    """The directory of its file system that is mounted there says where it is; that ends as the volume's path does.
    Where the volume is in memory it is a path in a file system that is mounted as a whole at the volume's place.
    """
    mounts = mount.file_systems_below(directory)
    device, root = mounts.get(source.removeprefix(f"{directory}/"), ("", ""))
    _, marker, path = root.rpartition(f"/pods/{os.path.basename(directory)}/volumes/")
    if marker:
        return _parsed(path)
    places = [at for at, whole in mounts.items() if whole == (device, "/") and at.startswith(f"volumes/{EMPTY}/")]
    return Volume(EMPTY, os.path.basename(places[0]), root.strip("/")) if places else None
