# SPDX-License-Identifier: Apache-2.0
"""The limit of new neighbours for a pod: rules in a table of nf_tables in the host's netns.

The kernel has one table of neighbours for all devices and namespaces, and an address takes a place in it even if nobody
answers. So pods are limited in new next hops, not in destinations: all that one router forwards is one next hop. Called
by attach, and by the daemon for all of its pods. Changes nothing in the pod's netns; the filter against spoofing is
`own`. docs/design/network.md has the reasons.
"""

import errno

from stage1.errors import KernelError, PodError
from stage1.linux import nft
from stage1.linux.libc import Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from stage1.net.record import Record

TABLE = "clearpod"
PODS = "pods"
"""The set of the hardware addresses of limited devices."""


def add(macs: "Iterable[str]") -> str:
    """Limit the pods whose devices have these hardware addresses; idempotent. Return what prevents it: a host without
    nf_tables has pods without this limit.
    """
    if not (keys := _keys(macs)):
        return ""
    try:
        with nft.Nftables() as socket:
            _commit(socket, nft.elements(TABLE, PODS, keys))
    except PodError as error:
        return f"pods are not kept from filling the host's table of neighbours: {error}"
    return ""


def _commit(socket: nft.Nftables, message: nft.Message) -> None:
    """Commit this message, after the table is made if it is missing; another process may make it at the same time."""
    try:
        socket.commit((message,), what=f"table {TABLE}")
    except Missing:
        try:
            from stage1.net import neighbour_table  # only the first pod of a host comes here

            socket.commit((*neighbour_table.table(), message), what=f"table {TABLE}")
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            socket.commit((message,), what=f"table {TABLE}")


def remove(macs: "Iterable[str]") -> None:
    """Forget the pods with these devices, as far as they are known. Best-effort. It takes some 10 ms, in which the
    kernel waits for all processors.
    """
    for key in _keys(macs):
        try:
            with nft.Nftables() as socket:
                socket.commit((nft.elements(TABLE, PODS, (key,), is_removal=True),), what=f"table {TABLE}")
        except PodError:
            continue


def remove_unused() -> None:
    """Remove the table if no pod of anybody's is in it. Best-effort: who adds a pod meanwhile keeps it."""
    try:
        with nft.Nftables() as socket:
            generation = socket.generation(what=f"table {TABLE}")
            if socket.is_empty(TABLE, PODS, what=f"table {TABLE}"):
                socket.commit((nft.table_removal(TABLE),), what=f"table {TABLE}", generation=generation)
    except PodError:
        pass


def of(known: "Record") -> list[str]:
    """The hardware addresses of the devices of a pod with this record."""
    return [one.mac for one in known.seen.interfaces if one.mac] if known.seen else []


def _keys(macs: "Iterable[str]") -> list[bytes]:
    keys = []
    for text in macs:
        try:
            keys.append(bytes.fromhex(text.replace(":", "")))
        except ValueError:
            continue
    return [key for key in keys if len(key) == 6]
