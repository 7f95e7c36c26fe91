# SPDX-License-Identifier: Apache-2.0
"""Makes the host's kernel merge equal pages of guests while the daemon runs, and gives its settings back in the end.

Made by the node. What to set is decided in `pace`; here are the looking, the writing, and the undo: what was set before
is written down first (`record`), so that a daemon that is killed leaves the next one enough. If another program runs
KSM or changes its settings, this one logs a line and stops controlling it.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable

from cri.config_tables import Ksm as KsmConfig
from cri.memory import record as records
from cri.memory.pace import STOPPED, Pace, Sight, decide
from cri.memory.record import Record
from stage1.errors import PodError
from stage1.linux import ksm, pressure
from stage1.linux.ksm import RUN, Ksm, Settings
from stage1.linux.pressure import Shortage

TICK_S = 5.0

log = logging.getLogger("clearpod.ksm")


class Merger:
    """`guests` returns how many VMs there are, `shortage` the host's memory pressure. When not enabled it only restores
    the host's settings.
    """

    def __init__(
        self,
        run_dir: str,
        config: KsmConfig,
        *,
        guests: Callable[[], int],
        shortage: Callable[[], Shortage] = pressure.shortage,
        directory: str = ksm.PATH,
    ) -> None:
        self._ksm, self._path, self._config = Ksm(directory), records.path(run_dir), config
        self._guests, self._shortage = guests, shortage
        self._record: Record | None = None
        self._task: asyncio.Task[None] | None = None
        # If the task is cancelled, a control step continues in its thread, and must not write after the restore.
        self._lock = threading.Lock()
        self._thread = 0
        self._pace = Pace()
        self._before: Sight | None = None

    @property
    def pace(self) -> Pace:
        """The pace that was decided last."""
        return self._pace

    async def open(self) -> None:
        """Adopt or restore the settings that a killed daemon has left, and start if that is configured and possible."""
        try:
            begins = await asyncio.to_thread(self.begin)
        except PodError as error:
            log.warning("ksm.unusable", extra={"warning": str(error)})
            return
        if begins:
            self._task = asyncio.get_running_loop().create_task(self._live(), name="ksm")

    async def close(self) -> None:
        """Stop deciding, and set everything to what it was before us."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.to_thread(self.give_back)

    def begin(self) -> bool:
        """Whether KSM is ours to set from now on. Raises KernelError when its files can't be read."""
        left = records.read(self._path)
        if left is not None and not left.explains(self._ksm.settings()):
            log.warning(
                "ksm.foreign",
                extra={"warning": "another program has changed KSM's settings since; they are not restored"},
            )
            records.forget(self._path)
            left = None
        self._record = left
        if not self._config.enabled:
            self.give_back()
            return False
        if why := self._refusal():
            log.warning("ksm.unusable", extra={"warning": why})
            return False
        now = self._ksm.settings()
        self._record = self._record or Record(now, now, now)
        self._thread = ksm.find_thread()
        return True

    def _refusal(self) -> str:
        """Why we must not set it; empty when we may."""
        if lacks := self._ksm.lacks():
            return f"ksm.enabled is set, but {lacks}"
        if self._record is None and self._ksm.settings().run == RUN:
            return (
                f"ksm.enabled is set, but another program already runs KSM ({self._ksm.path}/run is 1), so its "
                "settings are not changed; guests' pages are merged by them"
            )
        return ""

    async def _live(self) -> None:
        while True:
            try:
                if not await asyncio.to_thread(self.tick):
                    return
            except PodError as error:
                log.warning("ksm.failed", extra={"warning": f"{error}; this daemon stops controlling KSM"})
                return
            await asyncio.sleep(TICK_S)

    def tick(self) -> bool:
        """Look, decide, write. Return False if another program has changed KSM's settings: then this one stops
        controlling it. Raises KernelError, NoSpace.
        """
        with self._lock:
            return self._record is not None and self._tick(self._record)

    def _tick(self, record: Record) -> bool:
        if not record.explains(self._ksm.settings()):
            log.warning(
                "ksm.foreign",
                extra={"warning": "another program has changed KSM's settings; this daemon stops controlling it"},
            )
            self._record = None
            records.forget(self._path)
            return False
        now = self._observe()
        pace = decide(self._before, now, pace=self._pace, max_cpu_percent=self._config.max_cpu_percent)
        self._set(pace, record)
        self._before, self._pace = now, pace
        return True

    def _observe(self) -> Sight:
        used_s = ksm.thread_cpu_s(self._thread)
        return Sight(time.monotonic(), self._ksm.counters(), self._guests(), host=self._shortage(), thread_s=used_s)

    def _set(self, pace: Pace, record: Record) -> None:
        before, former = record.before, record.wrote
        settings = before if pace.level == STOPPED else _there(pace.settings(), before)
        if settings == former:
            return
        self._record = Record(before, wrote=settings, previous=former, level=pace.name, daemon=os.getpid())
        records.write(self._path, self._record)
        self._ksm.apply(settings)
        level = logging.INFO if pace.level != self._pace.level else logging.DEBUG
        log.log(level, "ksm.pace", extra={"level": pace.name, "pages_to_scan": settings.pages_to_scan})

    def give_back(self) -> None:
        """Restore the previous settings, unless another program has changed them since; the pages that are merged stay
        so.
        """
        with self._lock:
            self._give_back()

    def _give_back(self) -> None:
        if self._record is None:
            return
        try:
            if self._record.explains(self._ksm.settings()):
                self._ksm.apply(self._record.before)
                log.info("ksm.restored", extra={"run": self._record.before.run})
        except PodError as error:
            log.warning("ksm.failed", extra={"warning": f"KSM's settings could not be restored: {error}"})
            return
        self._record = None
        records.forget(self._path)


def _there(settings: Settings, current: Settings) -> Settings:
    """Without what this kernel does not have."""
    return settings if current.use_zero_pages >= 0 else settings._replace(use_zero_pages=-1)
