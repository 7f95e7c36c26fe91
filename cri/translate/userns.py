# SPDX-License-Identifier: Apache-2.0
"""UserNamespace and IDMapping -> IdMap. Called by `sandbox`, `container` and `mounts`. Pure."""

from collections.abc import Iterable, Sequence

from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.pod.model import IdMap, User

IDS = 0xFFFFFFFF
"""Of users, and of groups; the next one is unmapped."""


def of_pod(options: pb.NamespaceOption) -> IdMap:
    """The pod's users and groups; a length of 0 without a user namespace. Raises BadRequest."""
    given = options.userns_options
    if not options.HasField("userns_options"):
        return IdMap()
    if given.mode == pb.NODE:
        if given.uids or given.gids:
            raise BadRequest("userns_options of mode NODE must have no mappings")
        return IdMap()
    if given.mode != pb.POD:
        known = given.mode in pb.NamespaceMode.values()
        mode = pb.NamespaceMode.Name(given.mode) if known else given.mode
        raise BadRequest(f"userns_options can only be of mode POD or NODE, but it is {mode}")
    return _mapping(given.uids, given.gids, what="userns_options")


def check_container(options: pb.NamespaceOption, pod: IdMap) -> None:
    """A container that sets a user namespace must set its pod's: they share it. Raises BadRequest."""
    if options.HasField("userns_options") and of_pod(options) != pod:
        raise BadRequest("userns_options of the container must be those of its sandbox")


def check_user(user: User, pod: IdMap) -> None:
    """The user and all groups must be in the pod's user namespace. Raises BadRequest."""
    for number in (user.uid, user.gid, *user.groups):
        if pod.length and number >= pod.length:
            raise BadRequest(f"the user or group {number} is not one of the {pod.length} of the pod's user namespace")


def is_mapped(given: pb.Mount, pod: IdMap) -> bool:
    """Whether the owners of the volume's files are to be the pod's. Raises BadRequest."""
    if not given.uidMappings and not given.gidMappings:
        return False
    where = f"the mount {given.container_path}"
    if not pod.length:
        raise BadRequest(f"{where} has uidMappings or gidMappings, but its pod has no user namespace")
    if _mapping(given.uidMappings, given.gidMappings, what=where) != pod:
        raise BadRequest(f"uidMappings and gidMappings of {where} must be those of its sandbox")
    return True


def _mapping(uids: Sequence[pb.IDMapping], gids: Sequence[pb.IDMapping], *, what: str) -> IdMap:
    if len(uids) != 1 or len(gids) != 1:
        raise BadRequest(f"{what} must have one mapping of users and one of groups, not {len(uids)} and {len(gids)}")
    if _values(uids) != _values(gids):
        raise BadRequest(f"the mappings of users and of groups of {what} must be the same")
    one = uids[0]
    if one.container_id:
        raise BadRequest(f"{what} must map the container's id 0, but begins with {one.container_id}")
    if not one.length or not one.host_id or one.host_id + one.length > IDS:
        raise BadRequest(
            f"{what} must map to ids from 1 to {IDS - 1}, but it has {one.length} of them from {one.host_id} on"
        )
    return IdMap(one.host_id, one.length)


def _values(given: Iterable[pb.IDMapping]) -> list[tuple[int, int, int]]:
    return [(one.host_id, one.container_id, one.length) for one in given]
