# SPDX-License-Identifier: Apache-2.0
"""Room for one more container in a guest, which keeps a limited number of them. Called before one is made.

A container that has ended is of no use in the guest: it goes there when its room is needed, its writable layer with it.
Here it stays as it is, with its status and its log, until it is removed.
"""

import logging
from typing import TYPE_CHECKING

from stage1.errors import NotFound
from stage1.guest import messages
from stage1.pod import states

if TYPE_CHECKING:
    from cri.live.pod import LivePod

MOST = 128
"""MAX_CONTAINERS of the agent."""
AT_ONCE = 8
"""Containers that may be made beside this one."""

log = logging.getLogger("clearpod.container")


async def make(pod: "LivePod") -> None:
    """Have the guest forget the containers that ended first, if it has many. If all of them run, the agent refuses
    another one.

    Raises the agent's errors.
    """
    inside = [one for one in pod.containers.values() if not one.is_out_of_guest]
    over = len(inside) - (MOST - AT_ONCE) + 1
    ended = [one for one in inside if one.status.state == states.EXITED and not one.is_starting]
    ended.sort(key=lambda one: one.status.finished_ns)
    for one in ended[: max(over, 0)]:
        async with one.lock:
            try:
                await pod.call(messages.Delete(one.id))
            except NotFound:
                pass
            one.is_out_of_guest = True
            log.info("container.retired", extra=pod.log_fields(one))
