# SPDX-License-Identifier: Apache-2.0
"""The changes to a pod with namespaces of the host: it has no VM, and nothing that would change the host. Called by
`sandbox`. Pure but for the host's name.
"""

import os
import re
from collections.abc import Mapping

from cri import policy
from stage1.errors import BadRequest
from stage1.pod.model import Pod

_OF_NAMESPACE = {
    "network": re.compile(r"net\..*"),
    "ipc": re.compile(r"kernel\.(shm.*|msg.*|sem)|fs\.mqueue\..*"),
}
"""Sysctls that belong to a namespace: a pod that has its own may set them."""
_OF_VMS = {
    policy.KERNEL: ("default",),
    policy.PROFILE: ("default",),
    policy.SNAPSHOT: (),
    policy.FORKABLE: ("false",),
    policy.SUSPEND: (),
    policy.FORK_OF: (),
}
"""Annotations that only a pod with a guest can have, and what of them is true of any."""


def check(annotations: Mapping[str, str]) -> None:
    """Raise BadRequest for a pod that asks for something of a guest: it has none."""
    for word, harmless in _OF_VMS.items():
        if (text := annotations.get(word, "")) and text not in harmless:
            raise BadRequest(
                f"the annotation {word} is {text[:100]!r}, and a pod with namespaces of the host has no guest for "
                "that; leave it out"
            )


def pod(requested: Pod, host: tuple[str, ...]) -> Pod:
    """`requested` with the namespaces `host` of the host. Raises BadRequest for own users, or a sysctl of the host."""
    if requested.ids.length:
        raise BadRequest("a pod with namespaces of the host can't have users of its own; leave hostUsers unset")
    _check_sysctls(requested, host)
    pod = requested._replace(host=host, window_mib=0, kernel="", profile="", online_vcpus=0, is_bounded=False)
    if "network" not in host:
        return pod
    # Its ports are the host's own, and the host's limits and name are not changed.
    return pod._replace(hostname=os.uname().nodename, ports=(), ingress_bits=0, egress_bits=0, networks=())


def _check_sysctls(requested: Pod, host: tuple[str, ...]) -> None:
    for key, _ in requested.sysctls:
        if not any(known.fullmatch(key) for name, known in _OF_NAMESPACE.items() if name not in host):
            raise BadRequest(
                f"the sysctl {key} would be set for the whole host, of which the pod has namespaces; leave it out"
            )
