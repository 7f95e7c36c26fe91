# SPDX-License-Identifier: Apache-2.0
"""The start of a pod: booted for its request, or prewarmed for the pool and claimed by a request later.

Called by the table, the pool and `clearpod run`. Each function rolls back what it began when it fails.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cri.live import guest, own_kernel
from cri.live.pod import LivePod
from cri.live.tools import Tools, log_deferred_del
from cri.recorder import PHASE_SECONDS, POD_START_SECONDS, POD_STARTS
from cri.store import history
from cri.store.history import Fact
from cri.store.pods import PodRecord
from cri.threads import run_concurrently, run_uncancellable, run_uncancellable_in
from stage1 import engine, placement, prewarmed
from stage1.errors import AgentFailed, KernelError, PodError, TimedOut, VmFailed
from stage1.guest.settings import configure, warm_ups
from stage1.vm.spec import VmSpec

if TYPE_CHECKING:
    from stage1.guest.messages import Hello

log = logging.getLogger("clearpod.pod")

CLAIM_S = 10.0
"""What a guest that was prewarmed gets to take its pod's settings."""
CONSOLE_LINES = 100
"""Of the console of a VM whose pod failed to start."""


class CopyFailed(VmFailed):
    """The VM was a copy of a template and did not start. The caller boots one instead."""


async def boot(pod: LivePod, *, as_copy: bool = True) -> None:
    """Bring the pod from nothing to READY; as a copy of a template, if there is one and it is allowed. Raises
    VmFailed with the console's last lines if the VM dies or never answers, CopyFailed if that was a copy, and what
    `engine.prepare` raises.
    """
    recorder = pod.tools.recorder
    async with until_ready(pod) as start:
        phases = Phases(pod)
        with recorder.timing(PHASE_SECONDS, "prepare"):
            prepared = await pod.run_in_pool(engine.prepare, pod.record.pod, pod.tools.host)
        phases.prepared(prepared.network_ns)
        pod.network = prepared.network
        await pod.loopback.open(pod.record.pod, pod.ips)
        note_cgroup(pod, prepared.cgroup_note)
        copy = await _copy_of(pod, prepared) if as_copy else None
        start.how = "copied" if copy else "booted"
        async with _rejected_if_it_fails(pod, copy):
            until = time.monotonic() + pod.tools.boot_timeout_s
            await _start(pod, copy or prepared, limit_s=until - time.monotonic())
            phases.booted(pod.hello, is_copy=copy is not None)
            settings = configure(pod.record.pod, pod.network, has_waited=bool(copy))
            with recorder.timing(PHASE_SECONDS, "configure"):
                await pod.call(settings, max(until - time.monotonic(), 0.1))
        phases.end(history.CONFIGURE)


async def without_guest(pod: LivePod) -> None:
    """Bring the pod to READY without a VM: its container has a kernel of its own. Raises what `engine.prepare`
    raises.
    """
    async with until_ready(pod) as start:
        start.how = "booted"
        phases = Phases(pod)
        prepared = await pod.run_in_pool(engine.prepare, pod.record.pod, pod.tools.host)
        phases.prepared(prepared.network_ns)
        pod.network = prepared.network
        await pod.loopback.open(pod.record.pod, pod.ips)
        pod.move("boot", link_key=prepared.link_key)
        await own_kernel.take_over(pod)


async def prewarm(pod: LivePod, *, with_network: bool = False) -> bool:
    """Boot a VM as far as it can be without a request, and let its guest warm up, or begin a copy of one that has;
    `claim` is the rest. Whether it has the part of a network that does not depend on the request, which is made if that
    is possible.
    """
    async with _rolled_back(pod):
        prepared = await run_uncancellable(prewarmed.prepare, pod.record.pod, pod.tools.host)
        copy = await _copy_of(pod, prepared, waits=True)
        async with _rejected_if_it_fails(pod, copy):
            await _start(pod, copy or prepared, limit_s=pod.tools.boot_timeout_s)
        for warm_up in () if copy else warm_ups(prepared.network):
            await pod.call(warm_up)
        return with_network and await _reserve(pod)


async def _reserve(pod: LivePod) -> bool:
    try:
        return await pod.run_in_pool(prewarmed.reserve, pod.record.pod, pod.tools.host)
    except PodError as error:  # who claims it hears of it, if it lasts
        log.warning("pool.network", extra={"pod": pod.id, "error": str(error)})
        return False


async def _copy_of(pod: LivePod, prepared: engine.Prepared, *, waits: bool = False) -> engine.Prepared | None:
    templates = pod.tools.templates
    return await templates.copy_of(prepared, waits=waits) if templates else None


@asynccontextmanager
async def _rejected_if_it_fails(pod: LivePod, copy: engine.Prepared | None) -> AsyncIterator[None]:
    try:
        yield
    except (VmFailed, AgentFailed, TimedOut, KernelError) as error:
        if copy is None:
            raise
        assert pod.tools.templates is not None and isinstance(copy.vm, VmSpec) and copy.vm.template is not None
        await pod.tools.templates.reject(copy.vm.template, error)
        raise CopyFailed(str(error)) from error


async def claim(pod: LivePod, record: PodRecord, *, tools: Tools) -> None:
    """Make a prewarmed pod the one of `record`, whose id is this one's. Raises as `boot` and `prewarmed.claim`."""
    pod.rebind(record, tools)
    async with until_ready(pod) as start, _in_its_cgroups(pod):
        start.is_bounded = True
        phases = Phases(pod)
        with tools.recorder.timing(PHASE_SECONDS, "network"):
            pod.network = await pod.run_in_pool(prewarmed.claim, record.pod, tools.host, wake=guest.wakeup_of(pod.call))
        phases.end(history.NETWORK)
        with tools.recorder.timing(PHASE_SECONDS, "claim"):
            await pod.loopback.open(record.pod, pod.ips)
            settings = configure(record.pod, pod.network, has_waited=True)
            answer = pod.call(settings, min(CLAIM_S, tools.boot_timeout_s))
            await run_concurrently(answer, prewarmed.record, record.pod, tools.host, network=pod.network)
        phases.end(history.CLAIM)


@asynccontextmanager
async def _in_its_cgroups(pod: LivePod) -> AsyncIterator[None]:
    """While the block claims a VM, move the VM into its pod's cgroups and send the cgroups' limits to its guest. The
    first waits for the host's kernel, the second for the guest; neither depends on the plugins.
    """
    about, host = pod.record.pod, pod.tools.host
    work: list[Coroutine[Any, Any, str | None]] = []
    if placement.has_other_cgroups(about, host):
        work.append(run_uncancellable_in(pod.tools.pool_of(about), prewarmed.enter_cgroups, about, host))
    if about.is_bounded:
        work.append(guest.tell_limit(pod.call, about))
    begun = [asyncio.ensure_future(one) for one in work]
    try:
        yield
        note_cgroup(pod, "".join([await one or "" for one in begun]))
    finally:
        for one in begun:
            one.cancel()  # which ends what the guest is asked; the move, in its thread, is waited for
        await asyncio.gather(*begun, return_exceptions=True)


async def discard(pod: LivePod) -> None:
    """End a VM that no request has, and remove all of it. What can't be removed now is removed later."""
    await pod.detach()
    try:
        log_deferred_del(await pod.run_in_pool(engine.clean_up, pod.directory))
    except PodError as error:
        log.error("pod.cleanup_failed", extra={"directory": pod.directory, "error": str(error)})
        pod.tools.clean_up_later(pod.directory)


@asynccontextmanager
async def _rolled_back(pod: LivePod) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        try:
            if pod.vm is not None:
                pod.console_tail = await asyncio.to_thread(pod.vm.console_tail, CONSOLE_LINES)
        finally:
            await discard(pod)
        raise


class _Start:
    """Record for metrics how the pod got its VM; with `is_bounded` its guest knows the limits of the pod's cgroup."""

    how, is_bounded = "claimed", False


@asynccontextmanager
async def until_ready(pod: LivePod) -> AsyncIterator[_Start]:
    """Around all that makes the pod READY, which it is at the end; rolled back when it fails."""
    begun, start = time.monotonic(), _Start()
    async with _rolled_back(pod):
        yield start
        if not start.is_bounded:
            await guest.tell_limit(pod.call, pod.record.pod)
        pod.note(Fact(history.READY, took_ns=time.time_ns() - pod.record.created_ns))
        pod.move("agent_up")
    took_s = time.monotonic() - begun
    pod.boot_ms = round(took_s * 1000)
    pod.tools.recorder.count(POD_STARTS, start.how)
    pod.tools.recorder.observe(took_s, POD_START_SECONDS, start.how)
    extra = {"pod": pod.id, "title": pod.title, "boot_ms": pod.boot_ms, "kernel": pod.hello.kernel}
    log.info("pod.ready", extra=extra)


async def _start(pod: LivePod, prepared: engine.Prepared, *, limit_s: float) -> None:
    recorder = pod.tools.recorder
    pod.move("boot", link_key=prepared.link_key)
    with recorder.timing(PHASE_SECONDS, "spawn"):
        pool = pod.tools.pool_of(prepared.pod)
        vm, link = await run_uncancellable_in(pool, engine.boot, prepared, pod.tools.vmm)
        pod.watch(vm)
    with recorder.timing(PHASE_SECONDS, "guest"):
        await pod.meet(limit_s, link=link)
    if not (isinstance(prepared.vm, VmSpec) and prepared.vm.template):
        recorder.observe(pod.hello.init_ns / 1e9, PHASE_SECONDS, "kernel")


def note_cgroup(pod: LivePod, note: str) -> None:
    """Remember what the cgroup that was made for the pod lacks for its VM, if it does."""
    if note:
        log.warning("pod.cgroup", extra={"pod": pod.id, "title": pod.title, "warning": note})
        pod.note(Fact(history.CGROUP, text=note))
    pod.status = pod.status._replace(cgroup_note=note)


# -- Its phases, measured for the pod's history ------------------------------------------------------------------------
# The guest reports by its own clock when its kernel and its agent were ready. These times are clamped between two
# moments of the host, since a guest may report anything.


class Phases:
    """One start; each phase begins where the one before ended."""

    def __init__(self, pod: LivePod) -> None:
        self._pod, self._begun_ns = pod, time.time_ns()

    def end(self, what: str) -> None:
        """The phase `what` is over now."""
        self._end(what, time.time_ns())

    def prepared(self, network_ns: int) -> None:
        """Files, and at the end the network, which took so long."""
        now = time.time_ns()
        self._end(history.FILES, max(now - network_ns, self._begun_ns))
        self._end(history.NETWORK, now)

    def booted(self, hello: "Hello", *, is_copy: bool = False) -> None:
        """Record that the agent has sent its hello. The time that kernel and agent did not take was the hypervisor's,
        or all of it, if the guest is a copy of one that has booted.
        """
        if is_copy:
            self.end(history.VMM)
            return
        if self._pod.record.pod.host:
            self.end(history.AGENT)
            return
        now = time.time_ns()
        ready_ns = min(max(hello.ready_ns, 0), now - self._begun_ns)
        init_ns = min(max(hello.init_ns, 0), ready_ns)
        self._end(history.VMM, now - ready_ns)
        self._end(history.KERNEL, now - ready_ns + init_ns)
        self._end(history.AGENT, now)

    def _end(self, what: str, at_ns: int) -> None:
        self._pod.note(Fact(what, at_ns, at_ns - self._begun_ns))
        self._begun_ns = at_ns
