# SPDX-License-Identifier: Apache-2.0
"""What the CRI has no field for and `clearpod run` offers: tmpfs, ulimits, more lines of /etc/hosts. They come as
annotations, of the container's and of the sandbox's own configuration.

Called by `container`, `sandbox`, and by `clearpod run`, which writes them. Pure. Always allowed: each changes only what
the pod sees of itself.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping

from cri.translate import mounts
from cri.translate.bounds import short
from stage1.errors import BadRequest
from stage1.pod.model import UNLIMITED, HostName, Rlimit, Tmpfs

TMPFS = "clearpod.io/tmpfs"
"""Of a container: `/run:size=64m,mode=755;/tmp`, file systems in the guest's memory, with options of mount(8)."""
ULIMITS = "clearpod.io/ulimits"
"""Of a container: `nofile=1024:4096,core=0`, limits of its processes, soft and hard; -1 is unlimited."""
HOSTS = "clearpod.io/hosts"
"""Of a pod: `db:10.0.0.5,six:fd00::5`, more lines of /etc/hosts."""
MOST = 32
"""Of each in one pod or container."""
RLIMITS = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
MOST_FILES = 1 << 20
"""The guest kernel's limit for one process (fs.nr_open)."""
_OPTION = re.compile(
    r"rw|ro|(no)?(exec|suid|dev)|size=[0-9]{1,15}[kKmMgG%]?|mode=[0-7]{3,4}|nr_inodes=[0-9]{1,15}[kKmMgG]?"
)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"-1|unlimited|[0-9]{1,18}")


def tmpfs(annotations: Mapping[str, str]) -> tuple[Tmpfs, ...]:
    """The mounts that `TMPFS` requests. Raises BadRequest."""
    return tuple(tmpfs_of(word) for word in _parts(annotations, TMPFS, separator=";"))


def tmpfs_of(word: str) -> Tmpfs:
    """Parse a tmpfs, as `/run:size=64m,mode=755`. Raises BadRequest."""
    path, _, options = word.partition(":")
    given = tuple(options.split(",")) if options else ()
    for option in given:
        if not _OPTION.fullmatch(option):
            raise BadRequest(
                f"the tmpfs {short(word)} has the option {short(option)}; known are size=, mode=, "
                "nr_inodes=, rw, ro, and exec, suid and dev with and without no"
            )
    return Tmpfs(mounts.target(path), given)


def rlimits(annotations: Mapping[str, str]) -> tuple[Rlimit, ...]:
    """The limits that `ULIMITS` requests. Raises BadRequest."""
    return tuple(rlimit_of(word) for word in _parts(annotations, ULIMITS, separator=","))


def rlimit_of(word: str) -> Rlimit:
    """Parse a resource limit, as `nofile=1024:4096` or `nofile=1024`. Raises BadRequest."""
    name, _, numbers = word.partition("=")
    soft_word, _, hard_word = numbers.partition(":")
    hard_word = hard_word or soft_word
    if name not in RLIMITS:
        raise BadRequest(f"the ulimit {short(word)} has no known name; known are {', '.join(RLIMITS)}")
    if not _NUMBER.fullmatch(soft_word) or not _NUMBER.fullmatch(hard_word):
        raise BadRequest(f"the ulimit {short(word)} must be NAME=SOFT[:HARD] with whole numbers, -1 for unlimited")
    soft, hard = (UNLIMITED if text in ("-1", "unlimited") else int(text) for text in (soft_word, hard_word))
    if soft > hard:
        raise BadRequest(f"the ulimit {short(word)} has a soft limit above its hard one")
    if name == "nofile" and hard > MOST_FILES:
        raise BadRequest(f"the ulimit {short(word)} is more than the {MOST_FILES} files that the guest's kernel gives")
    return Rlimit(f"RLIMIT_{name.upper()}", soft, hard)


def hosts(annotations: Mapping[str, str]) -> tuple[HostName, ...]:
    """The entries that `HOSTS` requests. Raises BadRequest."""
    return tuple(host_of(word) for word in _parts(annotations, HOSTS, separator=","))


def host_of(word: str) -> HostName:
    """Parse a line for /etc/hosts, as `db:10.0.0.5`. Raises BadRequest."""
    name, _, address = word.partition(":")
    try:
        parsed = str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        raise BadRequest(f"the host {short(word)} must be NAME:ADDRESS with an IP address") from None
    if not _NAME.fullmatch(name):
        raise BadRequest(f"the host {short(word)} must be NAME:ADDRESS with a host's name")
    return HostName(name, parsed)


def _parts(annotations: Mapping[str, str], name: str, *, separator: str) -> Iterator[str]:
    parts = [word for word in annotations.get(name, "").split(separator) if word]
    if len(parts) > MOST:
        raise BadRequest(f"the annotation {name} has {len(parts)} parts, and at most {MOST} are allowed")
    return iter(parts)
