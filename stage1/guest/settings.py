# SPDX-License-Identifier: Apache-2.0
"""What the agent is told first, from the pod and its network. For `cri.pods` and `stage1.rkt`. Pure."""

from stage1.guest import messages
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork


def configure(pod: Pod, network: PodNetwork | None) -> messages.Configure:
    """The Configure of the pod. On the host the devices are there already, as the CNI plugins have left them."""
    seen = network if network and not pod.host else PodNetwork()
    return messages.Configure(
        hostname=pod.hostname,
        shm_bytes=pod.shm_bytes,
        sysctls=tuple(messages.Sysctl(key, value) for key, value in pod.sysctls),
        interfaces=tuple(messages.Interface(one.mac, one.name, one.mtu, one.addresses) for one in seen.interfaces),
        routes=tuple(messages.Route(*route) for route in seen.routes),
        neighbours=tuple(messages.Neighbour(*neighbour) for neighbour in seen.neighbours),
        first_id=pod.ids.first,
        ids=pod.ids.length,
    )
