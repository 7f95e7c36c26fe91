# SPDX-License-Identifier: Apache-2.0
"""The processors of the host on which a pod's VM runs: those that its containers were given by `cpuset_cpus`.

Owned by the pod, which calls it when a container is made, changed or removed. The kubelet's CPU manager speaks of the
host's numbers, which mean nothing in a guest: there every container may use every vCPU, and the VMM's threads, vCPUs
among them, stay on the processors of all its containers together. Nothing is asked of the guest. A VMM keeps its
processors when the daemon ends.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cri.pb import runtime_pb2 as pb
from stage1.linux import affinity

if TYPE_CHECKING:
    from cri.store.pods import ContainerRecord
    from stage1.vm.vmm import VmProcess


class Cpus:
    """`now` are those that the VM was bound to; none when it was not."""

    def __init__(self) -> None:
        self.now: frozenset[int] = frozenset()
        self._lock = asyncio.Lock()

    async def bind(self, vm: "VmProcess", records: "Iterable[ContainerRecord]", *, anew: bool = False) -> None:
        """Bind the VM to the processors of these containers, if that changes anything. With `anew` the current
        binding is unknown, since another daemon has set it. Raises WrongState when it can't be bound.
        """
        async with self._lock:
            allowed = allowed_by(records)
            if allowed == self.now and not anew:
                return
            cpus = allowed or affinity.present()
            if await asyncio.to_thread(affinity.pin, vm.pid, vm.start_time, cpus):
                self.now = allowed


def allowed_by(records: "Iterable[ContainerRecord]") -> frozenset[int]:
    """The processors of all containers together; empty, for any, when one of them may use all."""
    lists = [pb.ContainerConfig.FromString(one.config).linux.resources.cpuset_cpus for one in records]
    return frozenset().union(*map(affinity.parse, lists)) if lists and all(lists) else frozenset()
