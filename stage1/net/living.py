# SPDX-License-Identifier: Apache-2.0
"""Networks that may belong to a pod that lives, of any clearpod on this host. Called before an unrequested removal: by
garbage collections, our own (`stage1.garbage`) and that of plugins (`status_gc`).

It uses facts that all clearpods of this host share: daemons, `clearpod run` and rkt's pods.
"""

import os

from stage1.errors import PodError
from stage1.linux import namespace
from stage1.net import record
from stage1.net.settings import NETNS, netns_path


def is_abandoned(path: str, directory: str) -> bool:
    """Whether the network of the record at `path` is an orphan: its DEL is deferred, or the pod's directory is gone and
    no process is in the netns. `directory` is meant where the record, of a former version or damaged, names none.
    """
    try:
        known = record.load(path)
    except PodError:
        known = None
    if known is not None and known.is_deferred:
        return True
    place = (known.directory if known else "") or directory
    return not os.path.lexists(place) and not namespace.is_inhabited(netns_path(record.pod_of(path)))


def pods() -> list[str]:
    """The ids of all pods of this host that have a netns: each has, from before its first plugin to after the last."""
    place, prefix = os.path.split(NETNS)
    try:
        return [name.removeprefix(prefix) for name in sorted(os.listdir(place)) if name.startswith(prefix)]
    except FileNotFoundError:
        return []
