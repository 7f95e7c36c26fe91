# SPDX-License-Identifier: Apache-2.0
"""What the agent is told first, from the pod and its network. Called by the pod at its start. Pure but for time and
random bytes.
"""

import os
import time

from stage1.guest import messages
from stage1.net import spare
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork

ENTROPY_BYTES = 32
"""As much as the guest's generator of random numbers holds."""


def configure(pod: Pod, network: PodNetwork | None, *, has_waited: bool = False) -> messages.Configure:
    """The Configure of the pod. On the host the devices are there already, as the CNI plugins have left them.

    A guest that `has_waited` for its pod has a device of its own address and a clock that may have drifted, and gets
    random bytes that nobody else has.
    """
    seen = network if network and not pod.host else PodNetwork()
    waited = messages.Configure(entropy=os.urandom(ENTROPY_BYTES), unix_ns=time.time_ns())
    found_mac = spare.MAC if has_waited else ""
    return (waited if has_waited else messages.Configure())._replace(
        hostname=pod.hostname,
        shm_bytes=pod.shm_bytes,
        sysctls=tuple(messages.Sysctl(key, value) for key, value in pod.sysctls),
        interfaces=tuple(
            messages.Interface(one.mac, one.name, one.mtu, one.addresses, found_mac) for one in seen.interfaces
        ),
        routes=tuple(messages.Route(*route) for route in seen.routes),
        neighbours=tuple(messages.Neighbour(*neighbour) for neighbour in seen.neighbours),
        first_id=pod.ids.first,
        ids=pod.ids.length,
    )
