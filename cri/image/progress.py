# SPDX-License-Identifier: Apache-2.0
"""Watches a download: logs its progress, and cancels one that makes none. Used by the pull's sources."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from cri.image.skopeo import RegistryUnavailable
from cri.threads import await_end, run_uncancellable
from stage1.linux.supervise import never
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import Limits, OverLimit, refusal

log = logging.getLogger("clearpod.pull")

LOG_EVERY_S = 10.0
STALLED_S = 300.0
"""The time limit without data, as containerd's. A registry that keeps sending, however slowly, never reaches it."""
SLOW_S, SLOW_BYTES = 60.0, 4 << 20
"""A registry that sends less in so long is slow; its pull ends if others wait for their turn (`turns`)."""
_POLL_S = 1.0
_MORE_BYTES = 16 << 20


class Download(NamedTuple):
    """An expected download: `bytes` (0: unknown) of the image `name` below `directory`, and at most `most_mib`, the
    limit of images.
    """

    name: str
    directory: str
    bytes: int
    stalled_s: float = STALLED_S
    interval_s: float = _POLL_S
    most_mib: int = Limits().image_mib
    yields: Callable[[], bool] = never
    """Asked while the registry is slow; true ends the download."""
    slow_s: float = SLOW_S


async def watched(work: Coroutine[Any, Any, None], download: Download) -> None:
    """Await `work`. Raises what it raises, RegistryUnavailable if no data arrives, or so little that others go first,
    Corrupt if more arrives than was announced, OverLimit if that is too much.
    """
    if download.bytes > download.most_mib << 20:
        work.close()
        raise _too_much(download)
    task = asyncio.ensure_future(work)
    log.info("pull.download", extra={"image": download.name, "bytes": download.bytes})
    try:
        await _watch(task, download)
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await await_end(task)


async def _watch(task: "asyncio.Task[None]", download: Download) -> None:
    logged_at = moved = marked_at = time.monotonic()
    had = marked = 0
    while not (await asyncio.wait({task}, timeout=download.interval_s))[0]:
        now, has = time.monotonic(), await run_uncancellable(bytes_below, download.directory)
        if has != had:
            had, moved = has, now
        if now - moved >= download.stalled_s:
            raise RegistryUnavailable(
                f"the registry of {download.name} has sent nothing for {download.stalled_s:.0f} seconds, after {had}"
                f" of {download.bytes} bytes; try again later"
            )
        if now - marked_at >= download.slow_s:
            if had - marked < SLOW_BYTES and download.yields():
                raise _too_slow(download, had - marked)
            marked_at, marked = now, had
        if download.bytes and had > download.bytes + _MORE_BYTES:
            raise Corrupt(
                f"the registry sends more of {download.name} than the {download.bytes} bytes of its manifest;"
                " push it again"
            )
        if had > (download.most_mib << 20) + _MORE_BYTES:
            raise _too_much(download)
        if now - logged_at >= LOG_EVERY_S:
            logged_at = now
            log.info("pull.progress", extra={"image": download.name, "bytes": had, "of": download.bytes})


def _too_slow(download: Download, count: int) -> RegistryUnavailable:
    return RegistryUnavailable(
        f"the registry of {download.name} has sent {max(count, 0)} bytes in {download.slow_s:.0f} seconds, while other"
        " pulls waited for their turn (images.pulls); try again later"
    )


def _too_much(download: Download) -> OverLimit:
    what = f"the layers of {download.name} have more than {download.most_mib << 20} bytes"
    return refusal(what, key="image_mib", cap=download.most_mib)


def bytes_below(directory: str) -> int:
    """The sizes of all files there; they come and go meanwhile."""
    size = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return size
