# SPDX-License-Identifier: Apache-2.0
"""The user of a container: names and numbers resolved in the image's own passwd and group files.

Called by both front ends with the text of the files; never reads a file itself. Rules: OCI image config `User`,
CRI LinuxContainerSecurityContext run_as_user, run_as_username, supplemental_groups_policy.
"""

from stage1.errors import BadRequest
from stage1.pod.model import User

MAX_ID = 2**31 - 1
_HOME_CHARACTERS = 4096


def resolve(user: str, *, passwd: str, group: str, extra: tuple[int, ...] = (), merge: bool = True) -> User:
    """Resolve `uid`, `uid:gid`, `name` or `name:group`; empty is root.

    Args:
        user: as in the image config or put together from CRI fields.
        passwd, group: contents of the image's /etc/passwd and /etc/group, empty when it has none.
        extra: supplemental_groups of the request.
        merge: also take the groups that list the user (CRI policy Merge); without it only `extra` (Strict).

    Raises:
        BadRequest: the name is not in the file, or a number is out of range.
    """
    who, _, where = user.partition(":")
    name, uid, gid = _find_user(who or "0", passwd)
    if where:
        gid = _find_group(where, group)
    listed = _groups_of(name, group) if merge and name and not where else ()
    groups = tuple(dict.fromkeys(g for g in (*listed, *extra) if g != gid))
    return User(uid, gid, groups)


def with_home(env: tuple[str, ...], user: User, *, passwd: str) -> tuple[str, ...]:
    """`env` with HOME, unless it has one: the user's directory in the image's /etc/passwd, else "/".

    crun would otherwise look it up in the container's own file, and hang if that is a FIFO.
    """
    if any(entry.startswith("HOME=") for entry in env):
        return env
    rows = (row for row in _rows(passwd, 6) if row[2] == str(user.uid))
    home = next((row[5] for row in rows), "")
    is_usable = home.startswith("/") and "\0" not in home and len(home) <= _HOME_CHARACTERS
    return (*env, f"HOME={home if is_usable else '/'}")


def _rows(text: str, least: int) -> list[list[str]]:
    rows = (line.split(":") for line in text.splitlines() if line and not line.startswith("#"))
    return [row for row in rows if len(row) >= least]


def _number(text: str) -> int:
    digits = text.lstrip("0") or "0"  # int() itself refuses thousands of digits, by a ValueError
    if len(digits) > len(str(MAX_ID)) or int(digits) > MAX_ID:
        raise BadRequest(f"user or group id {text[:20]} is out of range; the largest is {MAX_ID}")
    return int(digits)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _find_user(who: str, passwd: str) -> tuple[str, int, int]:
    column = 2 if _is_number(who) else 0
    for row in _rows(passwd, 4):
        if row[column] == who and _is_number(row[2]) and _is_number(row[3]):
            return row[0], _number(row[2]), _number(row[3])
    if not _is_number(who):
        raise BadRequest(f"user {who!r} is not in the image's /etc/passwd; use a number or a name that is")
    return "", _number(who), 0


def _find_group(where: str, group: str) -> int:
    if _is_number(where):
        return _number(where)
    for row in _rows(group, 3):
        if row[0] == where and _is_number(row[2]):
            return _number(row[2])
    raise BadRequest(f"group {where!r} is not in the image's /etc/group; use a number or a name that is")


def _groups_of(name: str, group: str) -> tuple[int, ...]:
    rows = (row for row in _rows(group, 4) if _is_number(row[2]))
    return tuple(_number(row[2]) for row in rows if name in row[3].split(","))
