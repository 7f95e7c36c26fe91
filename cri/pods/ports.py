# SPDX-License-Identifier: Apache-2.0
"""Host ports that two pods can't both have. Called by the table before a pod is made. Pure.

Plugins do not look: the rules of the later pod would silently hide or be hidden by those of the earlier.
"""

from collections.abc import Iterable

from stage1.errors import AlreadyExists
from stage1.pod.model import Pod, Port

EVERY = ("", "0.0.0.0", "::")
"""Host addresses that stand for all."""


def require_free(requested: Pod, others: Iterable[Pod]) -> None:
    """Raise AlreadyExists when a host port of `requested` is twice in it, or one of another pod's."""
    taken: list[tuple[Port, Pod]] = [(port, other) for other in others for port in other.ports]
    for port in requested.ports:
        for held, holder in taken:
            if _overlap(port, held):
                where = f"{port.host_ip or 'every address'}, {port.protocol} port {port.host_port}"
                raise AlreadyExists(f"{where} of the host is taken by the pod {holder.namespace}/{holder.name}")
        taken.append((port, requested))


def _overlap(one: Port, other: Port) -> bool:
    is_same = (one.protocol, one.host_port) == (other.protocol, other.host_port)
    return is_same and (one.host_ip == other.host_ip or one.host_ip in EVERY or other.host_ip in EVERY)
