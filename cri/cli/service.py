# SPDX-License-Identifier: Apache-2.0
"""The daemon as a systemd service: notifies readiness and watchdog, reloads its configuration, stops in time.

Used by `clearpod serve`. Without a notify socket it only handles the signals.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from cri import changes, notify
from cri.config import Config, load
from cri.node import Node
from cri.notify import Notifier
from cri.translate.sandbox import plain
from stage1.errors import PodError
from stage1.linux import heap

log = logging.getLogger("clearpod.service")

END_S = 4.0
"""Time limit of the shutdown after SIGTERM, even if a plugin, a disk or a guest hangs. A daemon that is killed loses
nothing.
"""
ROUND_S = 5.0
"""How often the status line is updated."""
TRIM_S = 5.0
"""How often it is checked whether the daemon's memory has grown, by a pull or by many pods at once."""


class Signals:
    """`stop` is set by SIGTERM and SIGINT, and ends the process after END_S; `reload` by SIGHUP. The loop must run."""

    def __init__(self) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        faulthandler.enable()  # a watchdog's SIGABRT shows where we hang

    def _end(self) -> None:
        if not self.stop.is_set():
            self.stop.set()
            timer = threading.Timer(END_S, _give_up)
            timer.daemon = True
            timer.start()


def _give_up() -> None:
    log.warning("ending.late", extra={"warning": f"something still hangs after {END_S:g} s, and is left as it is"})
    sys.stderr.flush()
    os._exit(0)


class Service:
    """`path` is the file that SIGHUP has read again, None the default one; `set_up_logging` puts a `log` table in
    force.
    """

    trimmer = heap.Trimmer()

    def __init__(
        self, node: Node, notifier: Notifier, *, path: str | None, set_up_logging: Callable[[Config], None]
    ) -> None:
        self._node, self._notifier, self._path = node, notifier, path
        self._set_up_logging = set_up_logging
        self._trouble = self._notified = ""

    async def run(self, signals: Signals) -> None:
        """Serve until `signals.stop`. The node is serving already."""
        self._notifier.tell(notify.READY, notify.status(self._line()))
        tasks = [asyncio.create_task(one) for one in (self._rounds(), self._reloads(signals.reload), self._trims())]
        stop = asyncio.create_task(signals.stop.wait())
        try:
            done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a failed round ends the daemon: the watchdog would not be notified any more
        finally:
            self._notifier.tell(notify.STOPPING, notify.status("ending; pods go on"))
            for task in (stop, *tasks):
                task.cancel()

    def _line(self) -> str:
        pods = self._node.pods.pods()
        coming = sum(not pod.adopted.is_set() for pod in pods)
        parts = [f"{len(pods)} pods, {self._node.pods.count_vms()} virtual machines"]
        parts += [f"{coming} pods of the previous daemon are being adopted"] if coming else []
        return "; ".join([*parts, self._trouble] if self._trouble else parts)

    async def _rounds(self) -> None:
        """Called on the event loop, so that a loop that hangs counts as a daemon that hangs."""
        watchdog_s = self._notifier.watchdog_s
        pause_s = min(watchdog_s / 2, ROUND_S) if watchdog_s else ROUND_S
        while True:
            await asyncio.sleep(pause_s)
            line = self._line()
            messages = [notify.ALIVE] if watchdog_s else []
            messages += [notify.status(line)] if line != self._notified else []
            self._notified = line
            if messages:
                self._notifier.tell(*messages)

    async def _trims(self) -> None:
        """Give memory back that is not needed any more: a pull frees some 4 MB that the allocator would keep."""
        while True:
            with contextlib.suppress(OSError):  # no descriptor is free; the daemon goes on
                if self.trimmer.is_due():
                    await asyncio.to_thread(self.trimmer.trim)
            await asyncio.sleep(TRIM_S)

    async def _reloads(self, reload: asyncio.Event) -> None:
        while True:
            await reload.wait()
            reload.clear()
            self._notifier.tell(*notify.reloading(), notify.status("reading the configuration"))
            await self._reload()
            self._notified = self._line()
            self._notifier.tell(notify.READY, notify.status(self._notified))

    async def _reload(self) -> None:
        try:
            new = await asyncio.to_thread(load, self._path)
        except PodError as error:
            self._trouble = f"the configuration was not taken: {error}"
            log.error("config.refused", extra={"error": str(error)})
            return
        change = changes.between(self._node.config, new)
        self._trouble = change.sentence() if change.later else ""
        self._set_up_logging(change.config)
        await self._node.take(change.config, plain(change.config))
        log.info("config.read", extra={"taken": list(change.taken), "later": list(change.later)})
