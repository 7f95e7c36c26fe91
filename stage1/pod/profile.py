# SPDX-License-Identifier: Apache-2.0
"""The guest's userspace: the agent as PID 1, or systemd, with containers as its units. Pure: names only. Called by
the translation of pods, and by oci.py. The files of a profile are in stage1/vm/profiles.py.
"""

from stage1.errors import BadRequest

WORD = "clearpod.io/guest-profile"
"""The annotation of a pod that names its profile."""
ORDINARY, SYSTEMD = "default", "systemd"
KNOWN = (ORDINARY, SYSTEMD)


def named(text: str) -> str:
    """The profile that an annotation or an option names; empty for the ordinary one. Raises BadRequest."""
    if text and text not in KNOWN:
        raise BadRequest(f"there is no guest profile {text[:100]!r}; the profiles are {' and '.join(KNOWN)}")
    return "" if text == ORDINARY else text


def cgroup(profile: str, container_id: str) -> str:
    """The path at which the agent looks for the container's cgroup (images/agent): with systemd, below that of its
    unit.
    """
    where = f"clearpod.slice/app@{container_id}.service" if profile == SYSTEMD else "clearpod"
    return f"/{where}/{container_id}"
