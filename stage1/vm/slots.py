# SPDX-License-Identifier: Apache-2.0
"""Host ids for VMMs: each pod of this host has a range of its own, a slot. Called by the engine, for both front ends.

A claim is a symbolic link `/run/clearpod-ids/<number of the slot>` to the pod's directory, and a link `ids` from there
back. It is one place for all run directories, daemons and programs of this host, and it is empty after a boot, which no
VM survives. A claim whose pod directory is gone counts for nothing: so nothing has to be cleared after a kill.
"""

import os
import tomllib
import zlib
from typing import NamedTuple

from stage1.errors import BadRequest, NoSpace
from stage1.linux import files
from stage1.linux.flock import Lock
from stage1.linux.libc import Guard
from stage1.pod.ids import POD_IDS

CONFIG = "/etc/clearpod/config.toml"
"""The configuration of this host's daemon, where there is one."""
LEAST_ID, MOST_ID = 1 << 19, 0x7FFE0000
"""Of the ids for VMMs: below are accounts, containers' ranges of systemd from 0x80000 on are up to the operator; from
0x7FFE0000 on systemd has ids for disk images, and from 2^31 on programs take ids for negative numbers."""
PLACE = "/run/clearpod-ids"
LINK = "ids"
_LOCK = "lock"
_MOST_CONFIG = 1 << 20


class Range(NamedTuple):
    """Ids of the host that are for VMMs, whole slots of them: the numbers that no account of this host may have."""

    first: int = 0x70000000
    length: int = 0x0FFE0000

    @property
    def slots(self) -> range:
        """Their numbers: a slot's first id is its number times POD_IDS."""
        return range(-(-self.first // POD_IDS), (self.first + self.length) // POD_IDS)

    def why_not(self) -> str:
        """The error in it, in terms of jail.first_id and jail.count; empty if there is none."""
        if self.first < LEAST_ID:
            return f"first_id must be at least {LEAST_ID}: below are the ids of accounts"
        if self.first + self.length > MOST_ID:
            return f"first_id and count must end before {MOST_ID}, where ids of other kinds begin"
        if not self.slots:
            return f"first_id and count must have a whole range of {POD_IDS} that begins at a multiple of it"
        return ""


def configured(path: str = CONFIG) -> Range:
    """The range that the daemon's configuration at `path` names, for whoever reads nothing else of it: rkt's pods.

    The default one without such a file. Raises BadRequest when it can't be read, or no VMM may have these ids.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_CONFIG)
    except FileNotFoundError:
        return Range()
    except OSError as error:
        raise BadRequest(
            f"{path} can't be read ({error.strerror}): it sets the ids for hypervisors, jail.first_id"
        ) from None

    try:
        table = tomllib.loads(text.decode()).get("jail", {})
        ids = Range(
            *(int(table.get(key, default)) for key, default in zip(("first_id", "count"), Range(), strict=True))
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequest(f"{path}, which sets the ids for hypervisors (jail.first_id), is damaged: {error}") from None
    if why := ids.why_not():
        raise BadRequest(f"{path}: jail.{why}")
    return ids


def claim(directory: str, within: Range, *, place: str = PLACE) -> int:
    """The first id of the slot of the pod in `directory`, which exists: the one that it has, or else a free one.

    Undo: `release`. Raises NoSpace when all are taken, KernelError.
    """
    files.make_dirs(place, 0o700)
    with Lock(f"{place}/{_LOCK}"):
        held = find(directory, place=place)
        return held if held is not None else _take(directory, within, place=place)


def find(directory: str, *, place: str = PLACE) -> int | None:
    """The first id of the slot that the pod in `directory` has; None when it has none."""
    target = _read(f"{directory}/{LINK}")
    number = os.path.basename(target)
    is_claim = number.isdigit() and target == f"{place}/{number}"
    return int(number) * POD_IDS if is_claim and _read(target) == directory else None


def pods(*, place: str = PLACE) -> list[str]:
    """The ids of all pods of this host that have a slot and a directory, whoever made them."""
    try:
        owners = [_read(f"{place}/{name}") for name in os.listdir(place)]
    except FileNotFoundError:
        return []
    return [os.path.basename(owner) for owner in owners if owner and os.path.lexists(owner)]


def release(first: int | None, directory: str, *, place: str = PLACE) -> None:
    """Give back what `find` gave, for the pod that was in `directory`. Nothing happens for None. Idempotent."""
    path = f"{place}/{(first or 0) // POD_IDS}"
    if first is None or not os.path.islink(path):
        return
    with Lock(f"{place}/{_LOCK}"):
        if _read(path) == directory:
            os.unlink(path)


def _take(directory: str, within: Range, *, place: str) -> int:
    slots = within.slots
    # Neighbours begin to search at different places, so that most find a free slot at once.
    begin = zlib.crc32(os.fsencode(directory)) % max(len(slots), 1)
    candidates: list[int] = [*slots[begin:], *slots[:begin]]
    for number in candidates:
        path = f"{place}/{number}"
        if os.path.lexists(path) and not os.path.islink(path):
            continue  # not a claim of ours, or a damaged one: the ids may be in use
        owner = _read(path)
        if not owner or owner == directory or _is_stale(path, owner):
            with Guard("claim", path):
                _link(path, f"{directory}/{LINK}")  # first, so that whoever finds the claim finds the way back too
                _link(directory, path)
            return number * POD_IDS
    raise NoSpace(
        f"all {len(slots)} ranges of ids from {within.first} on are taken by pods of this host; remove pods, or set "
        "jail.count higher"
    )


def _is_stale(path: str, owner: str) -> bool:
    """Whether the pod in `owner` has gone, or claimed another slot since it was made anew.

    A pod that is just being removed may have lost its link back already, and still have files with these ids. One that
    was made anew, and asks again itself, gets the slot that is in its name.
    """
    return not os.path.lexists(owner) or _read(f"{owner}/{LINK}") not in ("", path)


def _link(target: str, path: str) -> None:
    """`path` becomes a link to `target`, whatever it was."""
    files.unlink(path)
    os.symlink(target, path)


def _read(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
