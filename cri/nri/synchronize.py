# SPDX-License-Identifier: Apache-2.0
"""The first messages to a new plugin: everything that exists, in as many messages as needed. Used by `hub`."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from cri.nri import calls
from cri.nri.calls import Refused
from cri.nri.plugin import MOST_BYTES, Plugin
from cri.nri.updates import Updates
from cri.pb import nri_pb2 as nri

FRAMING = 16
"""The overhead of one entry of a list in addition to its own bytes, at most."""


def parts(
    pods: Iterable[nri.PodSandbox], containers: Iterable[nri.Container], *, most_bytes: int = MOST_BYTES
) -> list[nri.SynchronizeRequest]:
    """The requests, of which all but the last announce another one. Pure."""
    made, size = [nri.SynchronizeRequest()], 0
    for one in (*pods, *containers):
        own = one.ByteSize() + FRAMING
        if size and size + own > most_bytes:
            made[-1].more = True
            made.append(nri.SynchronizeRequest())
            size = 0
        (made[-1].pods if isinstance(one, nri.PodSandbox) else made[-1].containers).append(one)  # type: ignore[arg-type]
        size += own
    return made


async def finish(
    plugin: Plugin,
    asked: Sequence[nri.SynchronizeRequest],
    *,
    answers: "Sequence[asyncio.Future[Any]]",
    updates: Updates,
) -> None:
    """Take in what the plugin answers; one that fails is dropped, since it does not know what there is."""
    results = await asyncio.gather(*answers, return_exceptions=True)
    for request, answer in zip(asked, results, strict=True):
        if isinstance(answer, Refused):
            plugin.link.close(f"it refused Synchronize: {calls.shortened(answer.message)}")
        elif isinstance(answer, nri.SynchronizeResponse):
            if request.more and not answer.more:
                plugin.link.close(
                    "it does not support Synchronize in parts, and the state does not fit into one message"
                )
            await updates.apply(plugin, answer.update)
