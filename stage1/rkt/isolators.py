# SPDX-License-Identifier: Apache-2.0
"""An app's isolators as numbers and sets. Pure. Called by plan.

Of memory and of cpu the last one counts, since rkt appends the user's to the image's. Isolators that a VM's stage1 does
not apply are named in `warnings`; a name that rkt does not know either is refused, for it may be meant to protect.
"""

from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.rkt import document, quantity
from stage1.rkt.document import Document

_MEMORY, _CPU = "resource/memory", "resource/cpu"
_SHARES, _SCORE = "os/linux/cpu-shares", "os/linux/oom-score-adj"
_CAPS = ("os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set")
_CALLS = ("os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set")
_NO_NEW, _SYSCTL = "os/linux/no-new-privileges", "os/unix/sysctl"
_NOT_APPLIED = (
    "resource/block-bandwidth", "resource/block-iops", "resource/network-bandwidth", "os/linux/selinux-context",
)  # fmt: skip
_RANGES = {_SHARES: (2, 262144), _SCORE: (-1000, 1000)}


class Names(NamedTuple):
    """A set of names, either to retain alone or to remove. `errno` is a name such as EPERM, or empty: kill."""

    retain: bool
    names: tuple[str, ...]
    errno: str = ""


class Isolators(NamedTuple):
    """Bytes, thousandths of a CPU, and sets; 0 and None mean that none is set."""

    memory: int = 0
    cpu_milli: int = 0
    cpu_shares: int = 0
    oom_score_adj: int = 0
    capabilities: Names | None = None
    seccomp: Names | None = None
    no_new_privs: bool = False
    sysctls: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


def read(given: tuple[Document, ...], *, where: str) -> Isolators:
    """Raises BadRequest: a value makes no sense, sets contradict each other, or a name is unknown."""
    named = [(document.text(one, "name", where=where), one.get("value")) for one in given]
    for name, _ in named:
        if name not in (_MEMORY, _CPU, *_RANGES, *_CAPS, *_CALLS, _NO_NEW, _SYSCTL, *_NOT_APPLIED):
            raise BadRequest(f"{where}: the isolator {name!r} is not known; remove it")
    last = dict(named)
    return Isolators(
        memory=_limit(last, _MEMORY, where=where),
        cpu_milli=_limit(last, _CPU, where=where, parts=1000),
        cpu_shares=_number(last, _SHARES, where=where),
        oom_score_adj=_number(last, _SCORE, where=where),
        capabilities=_one_set(named, _CAPS, where=where),
        seccomp=_one_set(named, _CALLS, where=where),
        no_new_privs=any(_truth(value, where=where) for name, value in named if name == _NO_NEW),
        sysctls=_sysctls(last, where=where),
        warnings=tuple(
            f"{where}: the isolator {name} is not applied in a VM"
            for name in dict.fromkeys(last)
            if name in _NOT_APPLIED
        ),
    )


def _limit(last: Document, name: str, *, where: str, parts: int = 1) -> int:
    where = f"{where}: isolator {name}"
    value = document.object_(last, name, where=where)
    limit = value.get("limit")
    if isinstance(limit, int) and not isinstance(limit, bool):
        limit = str(limit)
    text = document.text({"limit": limit}, "limit", where=where)
    return quantity.parse(text, where=where, parts=parts) if text else 0


def _number(last: Document, name: str, *, where: str) -> int:
    low, high = _RANGES[name]
    if last.get(name) is None:
        return 0
    value = document.number(last, name, where=where)
    if not low <= value <= high:
        raise BadRequest(f"{where}: the isolator {name} must be from {low} to {high}, but is {value}")
    return value


def _one_set(named: list[tuple[str, object]], kinds: tuple[str, str], *, where: str) -> Names | None:
    matching = [(name, value) for name, value in named if name in kinds]
    if len(matching) > 1:
        names = " and ".join(dict.fromkeys(name for name, _ in matching))
        raise BadRequest(f"{where}: there are {len(matching)} isolators of the kind {names}; one is allowed")
    for name, value in matching:
        where = f"{where}: isolator {name}"
        body = document.object_({name: value}, name, where=where)
        listed, errno = document.texts(body, "set", where=where), document.text(body, "errno", where=where)
        return Names(name == kinds[0], tuple(dict.fromkeys(name for name in listed if name)), errno)
    return None


def _truth(value: object, *, where: str) -> bool:
    return document.flag({_NO_NEW: value}, _NO_NEW, where=where)


def _sysctls(last: Document, *, where: str) -> tuple[tuple[str, str], ...]:
    settings = document.object_(last, _SYSCTL, where=where)
    where = f"{where}: isolator {_SYSCTL}"
    return tuple(
        (document.text({"key": key}, "key", where=where), document.text(settings, key, where=where)) for key in settings
    )
