# SPDX-License-Identifier: Apache-2.0
"""Hooks in the life of pods and their containers. Called by the pods and the RPCs.

The class does nothing; `cri.nri` calls its plugins in a subclass. A hook that raises makes the operation fail, which
its caller rolls back.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod
    from cri.pb import runtime_pb2 as pb
    from cri.store.pods import ContainerRecord


class Hooks:
    """Hooks without effect; each method is one."""

    @asynccontextmanager
    async def running(self, pod: "LivePod") -> AsyncIterator[None]:
        """Runs around the moment at which a booted pod is listed."""
        yield

    async def stopped(self, pod: "LivePod") -> None:
        """The pod's containers have ended; its network has not been released. Never raises."""

    def creating(self, pod: "LivePod", record: "ContainerRecord") -> "AbstractAsyncContextManager[ContainerRecord]":
        """Runs around the creation of a container; yields the record with the adjustments."""
        return nullcontext(record)

    async def starting(self, pod: "LivePod", container: "LiveContainer") -> None:
        """Runs before the container's process is started."""

    async def updating(
        self, pod: "LivePod", container: "LiveContainer", *, given: "pb.LinuxContainerResources"
    ) -> "pb.LinuxContainerResources":
        """Runs before new limits are applied; returns the limits to apply."""
        return given

    def updated(self, pod: "LivePod", container: "LiveContainer") -> None:
        """Called after new limits were applied."""

    async def updating_pod(self, pod: "LivePod", request: "pb.UpdatePodSandboxResourcesRequest") -> None:
        """Like `updating`, for the whole pod."""

    def updated_pod(self, pod: "LivePod") -> None:
        """The pod's limits have been applied."""

    def notify(self, kind: int, pod: "LivePod", *, subject: str) -> None:
        """An event of the kind `kind` (`cri.events`) of the pod or of its container `subject`. Never raises."""
