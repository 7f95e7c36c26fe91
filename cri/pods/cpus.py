# SPDX-License-Identifier: Apache-2.0
"""On which of the host's processors a pod's VM runs: those that its containers were given by `cpuset_cpus`.

Owned by the pod; called when a container is made, changed or removed. The kubelet's CPU manager speaks of the host's
numbers, which mean nothing in a guest: there every container may use every vCPU, and the VMM's threads, vCPUs among
them, stay on the processors of all its containers together. Nothing is asked of the guest. A VMM keeps its processors
when the daemon ends.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cri.pb import runtime_pb2 as pb
from stage1.linux import affinity
from stage1.pod import states

if TYPE_CHECKING:
    from cri.pods.pod import LivePod
    from cri.store.pods import ContainerRecord


class Cpus:
    """`now` are those that the VM was bound to; none when it was not."""

    def __init__(self) -> None:
        self.now: frozenset[int] = frozenset()
        self._lock = asyncio.Lock()

    async def follow(self, pod: "LivePod", *more: "ContainerRecord", anew: bool = False) -> None:
        """Bind the VM anew if that has changed; `more` are containers that are about to be made or changed.

        With `anew` where it is bound is not known, since another daemon has done that. Raises WrongState when it can't
        be bound.
        """
        async with self._lock:
            named = {one.container.id: one for one in more}
            living = (one.record for one in pod.containers.values() if one.status.state != states.EXITED)
            records = {one.container.id: one for one in living} | named
            wanted = wanted_by(records.values())
            if (wanted == self.now and not anew) or pod.vm is None or pod.record.pod.host:
                return
            cpus = wanted or affinity.present()
            if await asyncio.to_thread(affinity.pin, pod.vm.pid, pod.vm.start_time, cpus):
                self.now = wanted


def wanted_by(records: "Iterable[ContainerRecord]") -> frozenset[int]:
    """The processors of all containers together; empty, for any, when one of them may use all."""
    said = [pb.ContainerConfig.FromString(one.config).linux.resources.cpuset_cpus for one in records]
    return frozenset().union(*map(affinity.parse, said)) if said and all(said) else frozenset()
