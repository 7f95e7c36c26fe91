# SPDX-License-Identifier: Apache-2.0
"""New limits of a whole pod: put in force on the guest's cgroup of all containers and its vCPUs, in a VM that keeps its
size, which is a ceiling.

Called by UpdatePodSandboxResources with a record made by `cri.translate`, which refuses what the VM is too small for.
Either all limits are in force and recorded, or none.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable

from cri.live.deadlines import answer
from cri.live.guest import tunes
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.store.pods import PodRecord
from stage1 import engine
from stage1.errors import NoSpace, PodError, WrongState
from stage1.guest.messages import Tune
from stage1.linux import pressure
from stage1.pod.model import Pod

MIB = 1 << 20

WRITES_S = (0.0, 0.2, 1.0, 5.0, 30.0)
"""Pauses after which a new limit of the pod's cgroup is looked for."""

log = logging.getLogger("clearpod.limits")

# Not the pod's own lock: a guest that does not answer must not delay its end.
_locks: "weakref.WeakKeyDictionary[LivePod, asyncio.Lock]" = weakref.WeakKeyDictionary()


def require_host(pod: Pod, total_bytes: int = 0) -> None:
    """Raise NoSpace when the host can never have this much memory for the pod's VM. 0: read it from this host, which
    may not report it.
    """
    total_mib = (total_bytes or pressure.memory().total) // MIB
    if not pod.host and 0 < total_mib < pod.memory_mib:
        raise NoSpace(
            f"pod {pod.namespace}/{pod.name} would need a virtual machine of {pod.memory_mib} MiB, and this host has"
            f" {total_mib} MiB; lower its limits, or schedule it on another node"
        )


async def update(pod: LivePod, make: Callable[[], PodRecord]) -> None:
    """Put the limits of the record that `make` gives in force. Raises what that does, and WrongState when the pod uses
    more memory than it may then, and TimedOut, when the guest may still put them in force.
    """
    work = pod.gate.run_in_background(_update(pod, make), f"new limits of {pod.title}")
    await answer(pod, work, what="UpdatePodSandboxResources")


async def _update(pod: LivePod, make: Callable[[], PodRecord]) -> None:
    async with _locks.setdefault(pod, asyncio.Lock()):
        pod.require_ready()
        record = make()
        changes = [(op, back) for op, back in zip(tunes(record), tunes(pod.record), strict=True) if op != back]
        if pod.record.pod.host:
            changes = []  # kubelet limits what runs on the host itself
        elif _memory(record) != _memory(pod.record):
            await _require_memory(pod, _memory(record))
        await _apply(pod, changes)
        pod.record = record
        pod.save_soon()
        pod.gate.run_in_background(keep_space(pod), f"room for the VM of {pod.title}")
    if changes:
        log.info("pod.updated", extra={**pod.log_fields(), **{op.file: op.text for op, _ in changes}})


async def keep_space(pod: LivePod) -> None:
    """Let the pod's cgroup have room for its VM: now, and after the kubelet has written the pod's new limit there,
    which it does before or after it asks us. It writes none below what is used.
    """
    for pause_s in WRITES_S:
        await asyncio.sleep(pause_s)
        if not pod.is_ready:
            return
        try:
            await asyncio.to_thread(engine.keep_space, pod.record.pod, pod.tools.host)
        except PodError as error:
            log.warning("pod.cgroup", extra={**pod.log_fields(), "warning": f"no room could be added: {error}"})


def _memory(record: PodRecord) -> int:
    limit: int = pb.PodSandboxConfig.FromString(record.config).linux.resources.memory_limit_in_bytes
    return limit


async def _require_memory(pod: LivePod, limit: int) -> None:
    """The guest's kernel would kill what does not fit."""
    if limit <= 0:
        return
    sample = await answer(pod, pod.meter.current(), what="how much memory is used")
    used = sum(one.memory.working_set for one in sample.containers.values() if one.memory)
    if used > limit:
        raise WrongState(
            f"the containers of {pod.title} use {used} bytes of memory, more than the new limit of {limit};"
            " nothing was changed"
        )


async def _apply(pod: LivePod, changes: list[tuple[Tune, Tune]]) -> None:
    done: list[Tune] = []
    try:
        for op, back in changes:
            await pod.call(op)
            done.append(back)
    except PodError:
        for back in done:
            await _undo(pod, back)
        raise


async def _undo(pod: LivePod, back: Tune) -> None:
    try:
        await pod.call(back)
    except PodError as error:
        log.warning("pod.limits", extra={**pod.log_fields(), "error": str(error)})
