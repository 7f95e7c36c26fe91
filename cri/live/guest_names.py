# SPDX-License-Identifier: Apache-2.0
"""Containers of a copied pod have in its guest the ids of the original, by which mounts, cgroups and crun know them.
Here, between a pod and its agent, the ids that the CRI knows become these, and back. Owned by the pod. Pure.
"""

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from stage1.guest import messages

if TYPE_CHECKING:
    from cri.live.container import LiveContainer

_BY_CONTAINER = (messages.Exec, messages.Signal, messages.Resize, messages.Freeze)
_BY_ID = (messages.Create, messages.Start, messages.Delete, messages.Update)


class GuestNames:
    """Translates container ids between us and a copied guest, which knows its containers by the original's ids.
    `containers` are the pod's, `leaving` those that it has no more and its guest still has; both may change.
    """

    def __init__(
        self, containers: "Mapping[str, LiveContainer]", leaving: "Mapping[str, LiveContainer] | None" = None
    ) -> None:
        self._containers, self._leaving = containers, leaving if leaving is not None else {}

    def to_guest(self, op: messages.Op) -> messages.Op:
        """The request as the guest understands it."""
        if isinstance(op, _BY_ID):
            return op._replace(id=self._name(op.id))
        return op._replace(container=self._name(op.container)) if isinstance(op, _BY_CONTAINER) else op

    def from_guest(self, reply: messages.Reply) -> messages.Reply:
        """The reply as we know the containers. An unused name is the name in the guest as well."""
        if not (reply.containers or reply.stats) or not (ours := self._ours()):
            return reply

        def renamed(listed: Any) -> Any:
            return tuple(one._replace(id=ours.get(one.id, one.id)) for one in listed)

        return reply._replace(containers=renamed(reply.containers), stats=renamed(reply.stats))

    def container(self, name: str) -> "LiveContainer | None":
        """The one that the guest calls so."""
        return self._containers.get(self._ours().get(name, name))

    def guests(self) -> set[str]:
        """The guest's names that are not ours."""
        return set(self._ours())

    def _name(self, container_id: str) -> str:
        container = self._containers.get(container_id) or self._leaving.get(container_id)
        return container.record.guest_id or container_id if container else container_id

    def _ours(self) -> dict[str, str]:
        containers = chain(self._containers.values(), self._leaving.values())
        return {one.record.guest_id: one.id for one in containers if one.record.guest_id}
