# SPDX-License-Identifier: Apache-2.0
"""Templates of guests for a daemon's pods: which pod's VM becomes a copy of which, and when one is made.

Made by the node, called by `boot`. A missing template is made in the background, one at a time and while no pod is
starting: a pod never waits for one, and boots if anything fails here. How one is made is `stage1.snapshot.save`.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cri.tasks import Tasks
from cri.threads import is_set_within, run_uncancellable
from stage1.errors import NoSpace, PodError
from stage1.snapshot import save
from stage1.snapshot.store import TemplateStore, remove_outdated
from stage1.vm.template import Template

if TYPE_CHECKING:
    from stage1.engine import Host, Prepared
    from stage1.snapshot.machine import TemplateSpec
    from stage1.vm.host import HostPod
    from stage1.vm.spec import VmSpec
    from stage1.vm.vmm import Vmm, VmProcess

log = logging.getLogger("clearpod.templates")

DIRECTORY = "vm-templates"
"""The directory below the state directory."""
QUIET_S, MOST_QUIET_S = 0.5, 30.0
"""How long no pod may have been started before a template is made, and how long that is awaited."""
TRIES = 3
"""A template that could not be made or used so often is given up until the daemon starts again."""
MOST_QUEUED = 8


class Interruptible:
    """Starts VMs as `vmm` does, and ends the last of them at `interrupt`, or as soon as it is started."""

    def __init__(self, vmm: "Vmm") -> None:
        self._vmm, self._is_over = vmm, False
        self._last: VmProcess | None = None
        self._lock = threading.Lock()

    def start(self, vm: "VmSpec | HostPod") -> "VmProcess":
        """Like `Vmm.start`."""
        started = self._vmm.start(vm)
        with self._lock:
            self._last = started
            if self._is_over:
                started.kill()
        return started

    def interrupt(self) -> None:
        """Notify those who wait for that VM of its end. Blocks for a moment."""
        with self._lock:
            self._is_over = True
            if self._last is not None:
                self._last.kill()


class Templates:
    """`make` makes one: `stage1.snapshot.save.template`."""

    def __init__(
        self,
        host: "Host",
        vmm: "Vmm",
        *,
        disk_mib: int,
        limit_s: float = 60.0,
        make: Callable[..., Template] = save.template,
    ) -> None:
        self._host, self._most_bytes, self._limit_s, self._make = host, disk_mib << 20, limit_s, make
        self._vmm = Interruptible(vmm)
        self._store = TemplateStore(f"{host.state_dir}/{DIRECTORY}")
        self._failures: dict[str, int] = {}
        self._queued: set[str] = set()
        self._asked = asyncio.Event()
        self._lock = asyncio.Lock()
        self._tasks = Tasks(log, "template.failed")
        self._counts = dict.fromkeys(("made", "used", "missed", "failed"), 0)

    def open(self) -> None:
        """Remove what is of no use any more, in the background."""
        self._tasks.own(self._remove_unused(), name="old templates")

    async def close(self) -> None:
        """One that is being made is given up."""
        await asyncio.to_thread(self._vmm.interrupt)
        await self._tasks.close()

    def counts(self) -> dict[str, int]:
        """Since the daemon's start: templates made, VMs begun as copies, pods for which there was none yet, templates
        that could not be made or used.
        """
        return dict(self._counts)

    async def copy_of(self, prepared: "Prepared", *, waits: bool = False) -> "Prepared | None":
        """The pod with its VM as a copy of a template. None when it has to boot: then one is made, if that can be,
        before this returns (`waits`) or later.
        """
        self._asked.set()
        try:
            spec = await asyncio.to_thread(save.template_spec, prepared, self._host)
            if spec is None or self._is_given_up(spec):
                return None
            template = await self._find(spec)
            if template is None and waits:
                template = await self._find_or_make(spec)
        except (PodError, OSError) as error:
            log.warning("template.failed", extra={"error": str(error)})
            return None
        if template is None:
            self._counts["missed"] += 1
            if not waits:
                self._make_later(spec)
            return None
        self._counts["used"] += 1
        return prepared._replace(vm=spec.copy(template))

    async def reject(self, template: Template, why: Exception) -> None:
        """Record that a copy of the template did not start: the template is removed, and made again for the next pod.
        Several may report at once.
        """
        name = os.path.basename(template.directory)
        try:
            if await asyncio.to_thread(self._store.remove, name):
                self._count_failure(name, why)
        except (PodError, OSError) as error:
            self._count_failure(name, error)

    async def settled(self) -> None:
        """Wait until all is made that is wanted. For tests and benchmarks."""
        await self._tasks.settled()

    async def _find(self, spec: "TemplateSpec") -> Template | None:
        try:
            return await asyncio.to_thread(self._store.find, spec.name)
        except PodError as error:
            self._count_failure(spec.name, error)
            return None

    def _make_later(self, spec: "TemplateSpec") -> None:
        if spec.name not in self._queued and len(self._queued) < MOST_QUEUED:
            self._queued.add(spec.name)
            self._tasks.own(self._make_when_quiet(spec), name=f"template {spec.name}")

    async def _make_when_quiet(self, spec: "TemplateSpec") -> None:
        try:
            until = time.monotonic() + MOST_QUIET_S
            while time.monotonic() < until and await is_set_within(QUIET_S, self._asked):
                self._asked.clear()
            await self._find_or_make(spec)
        finally:
            self._queued.discard(spec.name)

    async def _find_or_make(self, spec: "TemplateSpec") -> Template | None:
        async with self._lock:
            template = await self._find(spec)
            if template or self._is_given_up(spec):  # another call was faster
                return template
            begun = time.monotonic()
            try:
                template = await run_uncancellable(
                    self._make, spec, self._host, vmm=self._vmm, store=self._store, limit_s=self._limit_s
                )
                if spec.name in await self._remove_unused_now():
                    raise NoSpace(self._give_up(spec))
            except (PodError, OSError) as error:
                self._count_failure(spec.name, error)
                return None
        self._counts["made"] += 1
        took_ms = round((time.monotonic() - begun) * 1000)
        log.info("template.made", extra={"template": spec.name, "took_ms": took_ms})
        return template

    def _give_up(self, spec: "TemplateSpec") -> str:
        """A template that was removed as soon as it was made would be made for each pod; the reason."""
        self._failures[spec.name] = TRIES
        return (
            f"templates.disk_mib in clearpod's configuration allows {self._most_bytes >> 20} MiB, and this template "
            "takes more; raise that key"
        )

    def _is_given_up(self, spec: "TemplateSpec") -> bool:
        return self._failures.get(spec.name, 0) >= TRIES

    def _count_failure(self, name: str, why: Exception) -> None:
        self._counts["failed"] += 1
        self._failures[name] = self._failures.get(name, 0) + 1
        more = "" if self._failures[name] < TRIES else "; it is not retried until the daemon is restarted"
        log.warning("template.failed", extra={"template": name, "error": f"{why}{more}"})

    async def _remove_unused(self) -> None:
        async with self._lock:
            await self._remove_unused_now()

    async def _remove_unused_now(self) -> list[str]:
        removed = await asyncio.to_thread(remove_outdated, self._store, most_bytes=self._most_bytes)
        if removed:
            log.info("template.removed", extra={"templates": ", ".join(removed)})
        return removed
