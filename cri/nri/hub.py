# SPDX-License-Identifier: Apache-2.0
"""All plugins: calls them before an operation, in the order of their indexes, and notifies them afterwards. The pods'
and RPCs' `Hooks`; made by the node.

Requests and notifications are queued for each plugin. For a plugin that connects
later the first request in the queue is Synchronize. It lists everything that exists or is being made; for everything
that begins later the plugin gets the usual requests. So nothing is lost or sent twice, and a pod waits for a plugin's
synchronization only with its own requests to that plugin. Stops and removals never fail because of a plugin.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from cri import events
from cri.config_tables import Nri
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.live.tools import Hooks
from cri.nri import adjust, amounts, shown, synchronize
from cri.nri.amounts import Claims
from cri.nri.listener import PluginListener
from cri.nri.plugin import Plugin
from cri.nri.updates import Updates
from cri.nri.validate import Wishes
from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, ContainerState
from cri.threads import run_uncancellable
from stage1.errors import WrongState
from stage1.pod import states

log = logging.getLogger("clearpod.nri")

TOLD = {
    events.CREATED: "PostCreateContainer",
    events.STARTED: "PostStartContainer",
    events.STOPPED: "StopContainer",
    events.DELETED: "RemoveContainer",
}


class Hub(Hooks):
    """`pods` lists those that live. Open it when they are listed."""

    def __init__(self, config: Nri, pods: Callable[[], list[LivePod]]) -> None:
        self._pods, self._plugins = pods, list[Plugin]()
        self._updates = Updates(pods, config.request_timeout_s)
        self._listener = PluginListener(config, admit=self._join, left=self._leave, update=self._unasked)
        self._coming_pods: dict[str, LivePod] = {}
        self._coming: dict[str, tuple[LivePod, ContainerRecord]] = {}
        self._containers: dict[str, LiveContainer] = {}
        self._starting: dict[str, tuple[Plugin, ...]] = {}
        self._stopped: set[str] = set()

    async def open(self) -> None:
        """Accept plugins. Raises as `PluginListener.open`."""
        for pod in self._pods():
            self._containers.update(pod.containers)
            if pod.status.state == states.DEAD:
                self._stopped.add(pod.id)
        await self._listener.open()

    def titles(self) -> list[str]:
        """Return the titles of the connected plugins, in their order."""
        return [plugin.title for plugin in self._plugins]

    async def close(self) -> None:
        """Disconnect all plugins."""
        await self._listener.close()
        await self._updates.close()

    # -- coming and going ------------------------------------------------------------------------------------

    def _join(self, plugin: Plugin) -> None:
        """Add a plugin. It must not await between listing what exists and queuing Synchronize, or the plugin misses an
        event.
        """
        if plugin.link.gone.is_set():
            return
        pods = {**{pod.id: pod for pod in self._pods()}, **self._coming_pods}
        containers = [self._seen(pod, one) for pod in pods.values() for one in pod.containers.values()]
        living = [one for one in containers if one.state != nri.CONTAINER_STOPPED]
        known = {one.id for one in living}
        coming = [
            shown.container(*one, status=ContainerState()) for key, one in self._coming.items() if key not in known
        ]
        parts = synchronize.parts([shown.pod(pod) for pod in pods.values()], [*living, *coming])
        answers = [plugin.put("Synchronize", part) for part in parts]
        self._updates.own(synchronize.finish(plugin, parts, answers=answers, updates=self._updates))
        self._plugins = sorted([*self._plugins, plugin], key=lambda one: one.title)

    def _leave(self, plugin: Plugin) -> None:
        self._plugins = [one for one in self._plugins if one is not plugin]

    def _seen(self, pod: LivePod, container: LiveContainer) -> nri.Container:
        made = shown.container(pod, container.record, status=container.status)
        if container.id in self._starting and made.state == nri.CONTAINER_CREATED:
            made.state = nri.CONTAINER_RUNNING  # the newcomer was not asked about its start
        return made

    async def _unasked(self, plugin: Plugin, request: nri.UpdateContainersRequest) -> nri.UpdateContainersResponse:
        failed = await self._updates.apply(plugin, request.update, evict=request.evict)
        return nri.UpdateContainersResponse(failed=failed)

    # -- pods ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, pod: LivePod) -> AsyncIterator[None]:
        """Plugins that connected meanwhile know the pod by Synchronize, and are notified if it failed."""
        self._coming_pods[pod.id] = pod
        try:
            for plugin in self._plugins:
                await plugin.ask("RunPodSandbox", nri.PodRequest(pod=shown.pod(pod)), what=pod.title)
            pod.require_ready()
            yield
        except BaseException:
            for method in ("StopPodSandbox", "RemovePodSandbox"):
                self._tell(method, nri.PodRequest(pod=shown.pod(pod)))
            raise
        finally:
            del self._coming_pods[pod.id]

    async def stopped(self, pod: LivePod) -> None:
        """Tell all plugins that the pod has stopped, once for each pod."""
        if pod.id in self._stopped:
            return
        self._stopped.add(pod.id)
        for plugin in self._plugins:
            try:
                await plugin.ask("StopPodSandbox", nri.PodRequest(pod=shown.pod(pod)), what=pod.title)
            except WrongState as error:
                log.warning("nri.refused", extra={"plugin": plugin.title, "error": str(error)})

    async def updating_pod(self, pod: LivePod, request: pb.UpdatePodSandboxResourcesRequest) -> None:
        """A plugin can refuse, and change nothing."""
        message = nri.UpdatePodSandboxRequest(
            pod=shown.pod(pod),
            overhead_linux_resources=amounts.of_cri(request.overhead),
            linux_resources=amounts.of_cri(request.resources),
        )
        for plugin in self._plugins:
            await plugin.ask("UpdatePodSandbox", message, what=pod.title)

    def updated_pod(self, pod: LivePod) -> None:
        """Tell the plugins in the background."""
        self._tell("PostUpdatePodSandbox", nri.PodRequest(pod=shown.pod(pod)))

    # -- containers ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def creating(self, pod: LivePod, record: ContainerRecord) -> AsyncIterator[ContainerRecord]:
        """The record with the wishes of all plugins."""
        key = record.container.id
        self._coming[key] = (pod, record)
        try:
            record = await self._adjusted(pod, record)
            self._coming[key] = (pod, record)
            yield record
        except BaseException:
            request = _about(pod, record, status=ContainerState(state=states.EXITED))
            for method in ("StopContainer", "RemoveContainer"):
                self._tell(method, request)
            raise
        finally:
            del self._coming[key]

    async def _adjusted(self, pod: LivePod, record: ContainerRecord) -> ContainerRecord:
        asked, claims, wishes = self._plugins, Claims(), Wishes(_about(pod, record, status=ContainerState()))
        what = _title(pod, record)
        for plugin in asked:
            answer = await plugin.ask("CreateContainer", _about(pod, record, status=ContainerState()), what=what)
            wishes.consulted(plugin)
            if answer is not None:
                record = await run_uncancellable(
                    adjust.adjusted, record, answer.adjust, title=plugin.title, claims=claims, pod=pod.record
                )
                wishes.take(answer)
                await self._updates.briefly(plugin, answer.update, evict=answer.evict)
        await wishes.validate(asked, claims, what=what)
        return record

    async def starting(self, pod: LivePod, container: LiveContainer) -> None:
        """A refusal is a start that failed."""
        self._starting[container.id] = asked = tuple(self._plugins)
        request = _about(pod, container.record, status=container.status)
        for plugin in asked:
            await plugin.ask("StartContainer", request, what=_title(pod, container.record))

    async def updating(
        self, pod: LivePod, container: LiveContainer, *, given: pb.LinuxContainerResources
    ) -> pb.LinuxContainerResources:
        """The request, with the adjustments of plugins."""
        claims = Claims()
        about = _about(pod, container.record, status=container.status)
        for plugin in self._plugins:
            request = nri.UpdateContainerRequest(
                pod=about.pod, container=about.container, linux_resources=amounts.of_cri(given)
            )
            answer = await plugin.ask("UpdateContainer", request, what=_title(pod, container.record))
            if answer is not None:
                mine = [one for one in answer.update if one.container_id == container.id]
                given = amounts.with_updates(given, mine, title=plugin.title, claims=claims)
                others = [one for one in answer.update if one.container_id != container.id]
                await self._updates.briefly(plugin, others, evict=answer.evict)
        return given

    def updated(self, pod: LivePod, container: LiveContainer) -> None:
        """Tell the plugins in the background."""
        self._tell("PostUpdateContainer", _about(pod, container.record, status=container.status))

    # -- what happens ----------------------------------------------------------------------------------------

    def notify(self, kind: int, pod: LivePod, *, subject: str) -> None:
        """Pass on an event of a container, or the removal of a pod. Never raises."""
        try:
            self._notify(kind, pod, subject=subject)
        except Exception:
            log.exception("nri.fault", extra={"pod": pod.id, "subject": subject})

    def _notify(self, kind: int, pod: LivePod, *, subject: str) -> None:
        if subject == pod.id:
            if kind == events.DELETED:
                self._stopped.discard(pod.id)
                self._tell("RemovePodSandbox", nri.PodRequest(pod=shown.pod(pod)))
            return
        if kind == events.CREATED:
            self._containers[subject] = pod.containers[subject]
        container = self._containers.get(subject)
        asked = self._starting.pop(subject, None) if kind in (events.STARTED, events.STOPPED) else None
        if kind == events.DELETED:
            self._containers.pop(subject, None)
        if container is None or not self._plugins:
            return  # the pod is still being adopted, or there are no plugins
        request = _about(pod, container.record, status=container.status)
        if kind == events.DELETED and container.status.state != states.EXITED:
            self._tell("StopContainer", request)  # it was never started
        self._tell(TOLD[kind], request, to=asked if kind == events.STARTED else None)

    def _tell(self, method: str, request: Any, *, to: Iterable[Plugin] | None = None) -> None:
        for plugin in self._plugins if to is None else to:
            if method == "StopContainer":
                self._updates.own(self._updates.follow(plugin, plugin.put(method, request)))
            else:
                plugin.tell(method, request)


def _about(pod: LivePod, record: ContainerRecord, *, status: ContainerState) -> nri.ContainerRequest:
    return nri.ContainerRequest(pod=shown.pod(pod), container=shown.container(pod, record, status=status))


def _title(pod: LivePod, record: ContainerRecord) -> str:
    return f"container {record.container.name} of {pod.title}"
