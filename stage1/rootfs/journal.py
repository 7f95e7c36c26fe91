# SPDX-License-Identifier: Apache-2.0
"""The host's directory with the journal of a pod with systemd, which its guest sees and may write into.

Called by the engine. As for a volume, the guest sees nothing above or next to it. Its content is for `journalctl -D`,
and as untrusted as any output of a pod.
"""

import os
from collections.abc import Sequence

from stage1.errors import KernelError, NotFound
from stage1.linux import beneath, files, idmap
from stage1.linux.idmap import Extent
from stage1.pod.files import machine_id
from stage1.pod.model import Mount, Pod
from stage1.rootfs import orphans, volumes

LINK = "journal"
"""The symbolic link in the pod's directory to a journal that is removed with the pod."""
SHARED = "volumes/journal"


def place(pod: Pod, state_dir: str) -> str:
    """Return the journal's directory: the one that the pod names, else one that is removed with the pod. Not in `/run`,
    which is memory.
    """
    return pod.journal or f"{state_dir}/journals/{pod.id}"


def add(pod: Pod, directory: str, *, state_dir: str, ids: Sequence[Extent] = ()) -> None:
    """Make it, and show it to the guest, with the owners of a VMM that has the maps `ids`. Undo: unmounting below the
    share, and `remove`.

    Raises NotFound when it can't be made or written; Unsupported when its owners can't be mapped.
    """
    source = place(pod, state_dir)
    try:
        if not pod.journal:
            files.make_dirs(os.path.dirname(source), 0o700)  # what pods write down is for root alone
        files.make_dirs(source, 0o755)
        with beneath.Root(source) as kept:
            kept.make_directories(machine_id(pod).strip(), 0o755)
    except (KernelError, OSError) as error:
        raise NotFound(f"the pod's journal can't be kept in {source}: {error}; name another directory") from None
    if not pod.journal:
        with beneath.Root(directory) as own:
            own.link(LINK, source)
    _show(os.path.realpath(source), directory, ids=ids)


def _show(source: str, directory: str, *, ids: Sequence[Extent]) -> None:
    """The guest looks for it as soon as it boots, so there is no VMM yet whose namespace could be used."""
    fd = idmap.namespace(ids) if ids else -1
    try:
        volumes.attach(Mount(source, f"/{LINK}"), directory, at=SHARED, ids=fd)
    finally:
        if fd >= 0:
            os.close(fd)


def remove(directory: str) -> None:
    """Remove what goes with the pod. Idempotent. The link stays, and goes with the pod's directory."""
    if path := orphans.of_pod(directory, LINK, place="journals"):
        files.remove_tree(path)
