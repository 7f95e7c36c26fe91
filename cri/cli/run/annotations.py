# SPDX-License-Identifier: Apache-2.0
"""The annotations that `clearpod run --annotation KEY=VALUE` gives to the pod and its container. Pure.

Called by `request`, and by `command` for a pod in the foreground, to which no daemon says what can't be. One of
clearpod's own that would mean nothing is refused: docs/design/daemon.md.
"""

import difflib
from collections.abc import Iterable, Mapping

from cri import policy
from cri.translate import extras
from stage1.errors import BadRequest
from stage1.pod import own_kernel

PREFIX = "clearpod.io/"
KNOWN = (*policy.KNOWN, extras.TMPFS, extras.ULIMITS, extras.HOSTS)
OF_KUBELET = (policy.EMPTY_DIRS, policy.EMPTY_DIR_LIMITS, policy.FILES)
"""About volumes that a kubelet makes, of which a pod of `clearpod run` has none."""
OF_DAEMON = (policy.SNAPSHOT, policy.SUSPEND, policy.FORKABLE, policy.FORK_OF, policy.COPY_SIGNAL)
"""What only a pod of the daemon's can be: saved, copied, a copy."""
_NOTHING = ("", "none", "false")
_OPTIONS = {
    policy.MEMORY: "--vm-memory",
    policy.SHM: "--shm-size",
    policy.NETWORKS: "--network",
    policy.PROFILE: "--profile",
    policy.KERNEL: "--vm-kernel",
    extras.HOSTS: "--add-host",
    extras.TMPFS: "--tmpfs, --mount or --read-only",
    extras.ULIMITS: "--ulimit",
}
"""The options that set the same."""


def given(texts: Iterable[str]) -> dict[str, str]:
    """Parse the options; of two with one key the later counts. Raises BadRequest."""
    made = {}
    for text in texts:
        key, is_one, value = text.partition("=")
        if not is_one or not key or any(letter.isspace() for letter in key):
            raise BadRequest(f"--annotation {text[:100]!r} must be KEY=VALUE, with a key without spaces")
        _require_known(key)
        made[key] = value
    return made


def _require_known(key: str) -> None:
    if key.startswith(PREFIX) and key not in KNOWN:
        names = [one.removeprefix(PREFIX) for one in KNOWN]
        guess = difflib.get_close_matches(key.removeprefix(PREFIX), names, n=1)
        hint = f"did you mean {PREFIX}{guess[0]}?" if guess else f"known are {', '.join(KNOWN)}"
        raise BadRequest(f"--annotation: there is no annotation {key[:100]}; {hint}")
    if key in OF_KUBELET:
        raise BadRequest(
            f"--annotation {key} is about volumes that a kubelet makes, and this pod has none; leave it out"
        )


def merged(asked: Mapping[str, str], of_options: Mapping[str, str]) -> dict[str, str]:
    """The annotations and those that stand for other options. Raises BadRequest where both set the same."""
    for key in asked:
        if key in of_options:
            raise BadRequest(f"--annotation {key} and {_OPTIONS[key]} set the same; leave one of them out")
    return {**asked, **of_options}


def require_in_foreground(asked: Mapping[str, str]) -> None:
    """Raise BadRequest for what only a pod of the daemon's can have."""
    for key in OF_DAEMON:
        if asked.get(key, "") not in _NOTHING:
            raise BadRequest(f"--annotation {key} needs a pod of the daemon's; add --detach")


def require_meant(asked: Mapping[str, str], *, image: str) -> None:
    """Raise BadRequest for settings of a kernel; that of `image`, or of an annotation, does not exist."""
    for key in filter(own_kernel.is_setting, asked):
        raise BadRequest(
            f"--annotation {key[:100]} is about a kernel in the image {image}, which names none; name its file by "
            f"--annotation {own_kernel.OURS}path=PATH"
        )
