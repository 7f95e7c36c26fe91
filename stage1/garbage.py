# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: what pods have left whose directory is gone, as after a reboot, is found without it and removed.

Called by the daemon and by `clearpod run`, at their start and later. These removals were not requested, so nothing is
touched that may belong to any living pod: of another daemon, of `clearpod run`, of rkt.
"""

from stage1 import engine
from stage1.engine import Host
from stage1.errors import Exhausted, PodError
from stage1.net import attach as net
from stage1.net import deferred, living, neighbours, record
from stage1.rootfs import orphans
from stage1.vm import slots


def networks(host: Host) -> list[str]:
    """Remove networks whose pod is gone, as after a reboot, or whose DEL is deferred, and limit the new neighbours of
    the other pods again, if a program has flushed the rules of nf_tables; without pods, there is no table for them. A
    sentence for each problem.
    """
    problems, macs = [], list[str]()
    records = record.every(host.network.cache_dir) if host.network else {}
    for pod_id, path in records.items():
        if not living.is_abandoned(path, engine.pod_directory(host, pod_id)):
            macs += _macs(path)
        else:
            try:
                net.detach_recorded(path)
            except Exhausted as error:
                problems.append(f"the network of pod {pod_id} could not be removed and is retried later: {error}")
            except PodError as error:
                problems.append(deferred.defer(path, error, tries=1, had_netns=True))
    unlimited = neighbours.add(macs)
    if not macs:
        neighbours.remove_unused()
    return [*problems, unlimited] if unlimited else problems


def _macs(path: str) -> list[str]:
    try:
        known = record.load(path)
    except PodError:  # reported by who needs it
        return []
    return neighbours.of(known) if known else []


def disks(host: Host, *, run_dirs: tuple[str, ...]) -> list[str]:
    """Remove disks and journals that pods have left before a reboot; a sentence for each that could not be.

    `run_dirs` are those known whose pods have the host's state directory.
    """
    others = {*slots.pods(), *living.pods()}  # of anybody on this host, since it was booted

    def is_known(pod_id: str) -> bool:
        hosts = (host._replace(run_dir=run_dir) for run_dir in run_dirs)
        return pod_id in others or any(engine.is_there(one, pod_id) for one in hosts)

    return orphans.remove(host.state_dir, is_known=is_known)
