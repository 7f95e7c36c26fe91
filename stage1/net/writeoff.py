# SPDX-License-Identifier: Apache-2.0
"""Gives up a deferred DEL (see deferred) after some tries: its leases are freed, and it is not retried.

Called by rkt's gc, which would else fail repeatedly because of a pod that is long gone. What may have stayed is
reported once, with the file where the record is kept from then on.
"""

import os

from stage1.errors import PodError
from stage1.linux import namespace
from stage1.net import protocol, record
from stage1.net.plugins import Runner
from stage1.net.record import Attachment, Record
from stage1.net.settings import netns_path

TRIES = 5
"""DELs that failed, before no other is tried."""
_LEASES = "/var/lib/cni/networks"
"""Of the IPAM plugin host-local, unless its configuration has another."""


def is_due(path: str) -> bool:
    """Whether the DEL in the record at `path` was tried often enough; a record that can't be read allows no try."""
    try:
        known = record.load_first(path)
    except PodError:
        return True
    return known is not None and known.failures >= TRIES


def write_off(path: str, error: PodError, *, all_s: float) -> str:
    """Free what can be freed without the plugin that fails with `error`, and keep the record elsewhere; a sentence.

    IPAM plugins have `all_s` for that together, as in Runner.
    """
    pod_id = record.pod_of(path)
    try:
        known = record.load_first(path)
    except PodError:
        known = None
    namespace.remove_net(known.netns if known else netns_path(pod_id))
    stuck = _taken(known, all_s=all_s) if known else ()
    kept = record.put_aside(path)
    left = f"; {' and '.join(stuck)}" if stuck else ""
    return (
        f"the network of pod {pod_id} can't be released and is not retried any more{left}; its record is {kept}, "
        f"which you can remove when this is repaired: {error}"
    )


def _taken(known: Record, *, all_s: float) -> tuple[str, ...]:
    """A sentence for each network of which addresses may be taken still."""
    runner = Runner(known.bin_dirs, known.limit_s, all_s=all_s)
    return tuple(filter(None, (_free(runner, one) for one in known.attachments)))


def _free(runner: Runner, one: Attachment) -> str:
    addresses = protocol.ips(one.result or {})
    for number, plugin in enumerate(one.network.plugins):
        ipam = plugin.get("ipam") or {}
        if number in one.deleted or not ipam.get("type"):
            continue
        try:
            runner.release(one.network, one.call, plugin=plugin, previous=one.result)
        except PodError:
            files = [_lease(one, address, place=ipam.get("dataDir")) for address in addresses]
            where = "".join(f", by {file}" for file in files if file)
            return f"its addresses {', '.join(addresses) or '(unknown)'} in {one.network.name!r} stay allocated{where}"
    return ""


def _lease(one: Attachment, address: str, *, place: object) -> str:
    """The file by which host-local knows that the address is taken; empty when there is none."""
    path = f"{place if isinstance(place, str) and place else _LEASES}/{one.network.name}/{address}"
    return path if os.path.exists(path) else ""
