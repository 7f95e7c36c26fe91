# SPDX-License-Identifier: Apache-2.0
"""The start of a pod: booted for its request, or prewarmed for the pool and claimed by a request later.

Called by the table, the pool and `clearpod run`. Each function rolls back what it began when it fails.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cri.live import tuning
from cri.live.phases import Phases
from cri.live.pod import LivePod
from cri.live.tools import Tools, log_deferred_del
from cri.live.wakeup import wakeup_of
from cri.recorder import PHASE_SECONDS, POD_START_SECONDS, POD_STARTS
from cri.store import history
from cri.store.history import Fact
from cri.store.pods import PodRecord
from cri.threads import run_concurrently, run_uncancellable, run_uncancellable_in
from stage1 import engine, prewarmed
from stage1.errors import PodError
from stage1.guest.settings import configure, warm_ups

log = logging.getLogger("clearpod.pod")

CLAIM_S = 10.0
"""What a guest that was prewarmed gets to take its pod's settings."""
CONSOLE_LINES = 100
"""Of the console of a VM whose pod failed to start."""


async def boot(pod: LivePod) -> None:
    """From nothing to READY.

    Raises VmFailed with the console's last lines when the VM dies or never answers, and as `engine.prepare`.
    """
    recorder = pod.tools.recorder
    async with _until_ready(pod, "booted"):
        phases = Phases(pod)
        with recorder.timing(PHASE_SECONDS, "prepare"):
            prepared = await pod.run_in_pool(engine.prepare, pod.record.pod, pod.tools.host)
        phases.prepared(prepared.network_ns)
        pod.network = prepared.network
        await pod.loopback.open(pod.record.pod, pod.ips)
        _note_cgroup(pod, prepared.cgroup_note)
        until = time.monotonic() + pod.tools.boot_timeout_s
        await _start(pod, prepared)
        phases.booted(pod.hello)
        with recorder.timing(PHASE_SECONDS, "configure"):
            await pod.call(configure(pod.record.pod, pod.network), max(until - time.monotonic(), 0.1))
        phases.end(history.CONFIGURE)


async def prewarm(pod: LivePod) -> None:
    """Boot a VM as far as it can be without a request, and let its guest warm up; `claim` is the rest."""
    async with _rolled_back(pod):
        prepared = await run_uncancellable(prewarmed.prepare, pod.record.pod, pod.tools.host)
        await _start(pod, prepared)
        for warm_up in warm_ups(prepared.network):
            await pod.call(warm_up)


async def claim(pod: LivePod, record: PodRecord, *, tools: Tools) -> None:
    """Make a prewarmed pod the one of `record`, whose id is this one's. Raises as `boot` and `prewarmed.claim`."""
    pod.rebind(record, tools)
    async with _until_ready(pod, "claimed"):
        phases = Phases(pod)
        with tools.recorder.timing(PHASE_SECONDS, "claim"):
            pod.network = await pod.run_in_pool(prewarmed.claim, record.pod, tools.host, wake=wakeup_of(pod.call))
        phases.end(history.NETWORK)
        await pod.loopback.open(record.pod, pod.ips)
        _note_cgroup(
            pod, await run_uncancellable_in(tools.pool_of(record.pod), prewarmed.enter_cgroups, record.pod, tools.host)
        )
        settings = configure(record.pod, pod.network, waiting_mac=prewarmed.MAC)
        answer = pod.call(settings, min(CLAIM_S, tools.boot_timeout_s))
        await run_concurrently(answer, prewarmed.record, record.pod, tools.host, network=pod.network)
        phases.end(history.CLAIM)


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
                pod.last_words = await asyncio.to_thread(pod.vm.console_tail, CONSOLE_LINES)
        finally:
            await discard(pod)
        raise


@asynccontextmanager
async def _until_ready(pod: LivePod, how: str) -> AsyncIterator[None]:
    begun = time.monotonic()
    async with _rolled_back(pod):
        yield
        await tuning.begin(pod.call, pod.record.pod)
        pod.note(Fact(history.READY, took_ns=time.time_ns() - pod.record.created_ns))
        pod.move("agent_up")
    took_s = time.monotonic() - begun
    pod.boot_ms = round(took_s * 1000)
    pod.tools.recorder.count(POD_STARTS, how)
    pod.tools.recorder.observe(took_s, POD_START_SECONDS, how)
    extra = {"pod": pod.id, "title": pod.title, "boot_ms": pod.boot_ms, "kernel": pod.hello.kernel}
    log.info("pod.ready", extra=extra)


async def _start(pod: LivePod, prepared: engine.Prepared) -> None:
    recorder = pod.tools.recorder
    pod.move("boot", link_key=prepared.link_key)
    with recorder.timing(PHASE_SECONDS, "spawn"):
        pod.watch(await run_uncancellable_in(pod.tools.pool_of(prepared.pod), engine.boot, prepared, pod.tools.vmm))
    with recorder.timing(PHASE_SECONDS, "guest"):
        await pod.meet(pod.tools.boot_timeout_s)
    recorder.observe(pod.hello.init_ns / 1e9, PHASE_SECONDS, "kernel")


def _note_cgroup(pod: LivePod, note: str) -> None:
    if note:
        log.warning("pod.cgroup", extra={"pod": pod.id, "title": pod.title, "warning": note})
        pod.status = pod.status._replace(cgroup_note=note)
