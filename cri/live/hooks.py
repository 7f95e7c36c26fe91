# SPDX-License-Identifier: Apache-2.0
"""What others may have a say in, or hear of, while a pod and its containers live. Called by the pods and the RPCs.

By itself it does nothing; `cri.nri` puts its plugins here. A hook that raises makes what it is asked about fail, and
what was begun is rolled back by the caller.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod
    from cri.pb import runtime_pb2 as pb
    from cri.store.pods import ContainerRecord


class Hooks:
    """Nobody wants to know."""

    @asynccontextmanager
    async def running(self, pod: "LivePod") -> AsyncIterator[None]:
        """Around the listing of a pod that has booted."""
        yield

    async def stopped(self, pod: "LivePod") -> None:
        """Its containers have ended, and its network is still there. Never raises."""

    @asynccontextmanager
    async def creating(self, pod: "LivePod", record: "ContainerRecord") -> "AsyncIterator[ContainerRecord]":
        """Around the making of a container; gives the record by which it is made."""
        yield record

    async def starting(self, pod: "LivePod", container: "LiveContainer") -> None:
        """Before its process is started."""

    async def updating(
        self, pod: "LivePod", container: "LiveContainer", *, given: "pb.LinuxContainerResources"
    ) -> "pb.LinuxContainerResources":
        """Before new limits are put in force; gives those that are."""
        return given

    def updated(self, pod: "LivePod", container: "LiveContainer") -> None:
        """They are in force."""

    async def updating_pod(self, pod: "LivePod", request: "pb.UpdatePodSandboxResourcesRequest") -> None:
        """As `updating`, for the whole pod."""

    def updated_pod(self, pod: "LivePod") -> None:
        """They are in force."""

    def told(self, kind: int, pod: "LivePod", *, subject: str) -> None:
        """What happened, with a kind of `cri.events`, to the pod or the container of this id. Never raises."""
