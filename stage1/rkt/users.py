# SPDX-License-Identifier: Apache-2.0
"""The user of an app: a name, a number, or a path whose owner it is. Called by plan.

Nothing is taken from the host: names are those of the image's own passwd and group files.
"""

from stage1.errors import BadRequest
from stage1.pod import users
from stage1.pod.model import User
from stage1.rkt import inside
from stage1.rkt.manifest import Entry
from stage1.rkt.spelling import is_number

_PASSWD, _GROUP = "/etc/passwd", "/etc/group"


def resolve(entry: Entry, root: str) -> User:
    """The app's numbers; `root` is its root on the host. Raises BadRequest."""
    uid = _uid(entry, root)
    gid = _gid(entry, root, uid=uid)
    for number in entry.gids:
        if not 0 <= number <= users.MAX_ID:
            raise BadRequest(f"{entry.where}: the supplementary group {number} is not from 0 to {users.MAX_ID}")
    return User(uid, gid, tuple(dict.fromkeys(number for number in entry.gids if number != gid)))


def _uid(entry: Entry, root: str) -> int:
    if entry.user == "root":
        return 0
    if entry.user.startswith("/"):
        return _owner(entry, root, path=entry.user)[0]
    return _by_name(entry, entry.user, what="user", text="" if is_number(entry.user) else inside.text(root, _PASSWD))


def _gid(entry: Entry, root: str, *, uid: int) -> int:
    if entry.group == "root":
        return 0
    if entry.group.startswith("/"):
        return _owner(entry, root, path=entry.group)[1]
    try:
        return _by_name(entry, entry.group, what="group", text=inside.text(root, _GROUP))
    except BadRequest:
        # Docker's images name no group; what converts them repeats the user there.
        if entry.is_from_docker and entry.image_owner[0] == entry.image_owner[1] == entry.group:
            return uid
        raise


def _owner(entry: Entry, root: str, *, path: str) -> tuple[int, int]:
    status = inside.status(root, path, follow=False)
    if status is None:
        raise BadRequest(f"{entry.where}: it should run as the owner of {path}, which is not in its image")
    for number in (status.st_uid, status.st_gid):
        if number > users.MAX_ID:
            raise BadRequest(
                f"{entry.where}: {path} belongs to the id {number}, and the largest in a pod is {users.MAX_ID}; name a "
                "user and a group by number"
            )
    return status.st_uid, status.st_gid


def _by_name(entry: Entry, name: str, *, what: str, text: str) -> int:
    if not name or ":" in name:
        raise BadRequest(f"{entry.where}: {name!r} is no {what}; give --{what} a name, a number or a path")
    try:
        if what == "user":
            return users.resolve(name, passwd=text, group="", merge=False).uid
        return users.resolve(f"0:{name}", passwd="", group=text, merge=False).gid
    except BadRequest as error:
        raise BadRequest(f"{entry.where}: {error}") from None
