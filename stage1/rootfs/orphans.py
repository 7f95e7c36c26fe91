# SPDX-License-Identifier: Apache-2.0
"""What pods have outside of their directory, and orphans there: disks, journals, cgroups. Called by the engine. A
pod's directory, which names them, is in `/run` and so is lost at a reboot; they are not.
"""

import os
import time
from collections.abc import Callable

from stage1.errors import PodError
from stage1.linux import beneath, cgroup, files, scope

PLACES = ("scratch", "journals")
"""Directories of the state directory; in each, a pod's is its id, maybe with an ending."""


def of_pod(directory: str, link: str, *, place: str) -> str:
    """The path of the pod's disk or journal, by the symbolic link in its directory; empty without one.

    The link is trusted only as far as it names something of this pod's in the state directory, since a program that can
    write into the pod's directory could otherwise have anything removed.
    """
    try:
        with beneath.Root(directory) as own:
            path = own.read_link(link)
    except FileNotFoundError:
        return ""
    above, name = os.path.split(path)
    pod_id = os.path.basename(directory)
    is_ours = name.partition(".")[0] == pod_id and os.path.basename(above) == place and os.path.isabs(path)
    return path if is_ours else ""


def cgroups_of_pod(directory: str) -> list[str]:
    """The cgroups that the links `cgroup` and `cgroup.CONTROLLER` in the pod's directory name, without those of others.

    Who could write such a link could else have other processes killed.
    """
    try:
        with beneath.Root(directory) as own:
            names = [name for name in own.names() if name.partition(".")[0] == "cgroup"]
            paths = [own.read_link(name) for name in sorted(names)]
    except FileNotFoundError:
        return []
    return [path for path in paths if _is_of(path, os.path.basename(directory))]


def _is_of(path: str, pod_id: str) -> bool:
    outer = scope.of(path)
    name = os.path.basename(outer).removesuffix(".scope") if outer else os.path.basename(path)
    is_ours = name == f"clearpod-{pod_id}" and path == os.path.normpath(path)
    return is_ours and cgroup.is_one(path)


def remove(state_dir: str, *, is_known: Callable[[str], bool], booted_s: float | None = None) -> list[str]:
    """Remove what is older than this boot and of no pod that is known; a sentence for each that could not be.

    `booted_s` is the time of the boot (seconds since 1970). Both are asked, since a clock may have been set meanwhile.
    """
    since = _booted_s() if booted_s is None else booted_s
    problems = []
    for path in _scratch_disks(state_dir):
        if is_known(os.path.basename(path).partition(".")[0]):
            continue
        try:
            if os.lstat(path).st_ctime < since:
                files.remove_tree(path)
        except FileNotFoundError:
            continue
        except (PodError, OSError) as error:
            problems.append(f"{path}, left by a pod from before the last boot, can't be removed: {error}")
    return problems


def _booted_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _scratch_disks(state_dir: str) -> list[str]:
    paths = []
    for place in PLACES:
        try:
            paths += [f"{state_dir}/{place}/{name}" for name in sorted(os.listdir(f"{state_dir}/{place}"))]
        except FileNotFoundError:
            continue
    return paths
