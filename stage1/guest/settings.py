# SPDX-License-Identifier: Apache-2.0
"""The first configuration of the agent, from the pod and its network. For `cri.live` and `stage1.rkt`. Pure but for
time and random bytes.
"""

import os
import time

from stage1.guest import pod_messages as messages
from stage1.pod.model import Pod
from stage1.pod.network import Interface, PodNetwork, waiting_mac

ENTROPY_BYTES = 32
"""The size of the seed: what the guest's random number generator holds."""


WARM_UPS = 2
"""The first one brings a device up that was never up before, which goes another way through the kernel."""


def warm_ups(network: PodNetwork | None) -> tuple[messages.Configure, ...]:
    """What a guest is told that begins to wait, one after the other, each to be done and undone: what the kernel does
    for the first time takes several times as long. The addresses are unused, and nothing is connected to the tap; but
    they are of the kinds that pods get, as gateways with link-local addresses go another way, too.
    """
    devices = network.interfaces if network else ()
    settings = messages.Configure(
        hostname="waits",
        interfaces=tuple(
            messages.Interface(one.mac, one.name, 1400, (f"169.254.{number}.2/24", f"fd00::{number}:2/112"), one.mac)
            for number, one in enumerate(devices)
        ),
        routes=tuple(
            messages.Route(to, gateway, one.name)
            for one in devices[:1]
            for to, gateway in (("0.0.0.0/0", "169.254.0.1"), ("::/0", "fd00::1"))
        ),
        unix_ns=time.time_ns(),
        warm_up=True,
    )
    return tuple(settings._replace(entropy=os.urandom(ENTROPY_BYTES)) for _ in range(WARM_UPS))


def configure(pod: Pod, network: PodNetwork | None, *, has_waited: bool = False) -> messages.Configure:
    """The Configure of the pod. On the host the devices are there already, as the CNI plugins have left them.

    Each guest gets unique random bytes. One that `has_waited` for its pod has devices of the addresses `waiting_mac`
    and a clock that may have drifted.
    """
    seen = network if network and not pod.host else PodNetwork()
    return messages.Configure(
        entropy=b"" if pod.host else os.urandom(ENTROPY_BYTES),
        unix_ns=time.time_ns() if has_waited else 0,
        hostname=pod.hostname,
        shm_bytes=pod.shm_bytes,
        sysctls=tuple(messages.Sysctl(key, value) for key, value in pod.sysctls),
        interfaces=tuple(
            messages.Interface(one.mac, one.name, one.mtu, one.addresses, waiting_mac(number) if has_waited else "")
            for number, one in enumerate(seen.interfaces)
        ),
        routes=tuple(messages.Route(*route) for route in seen.routes),
        neighbours=tuple(messages.Neighbour(*neighbour) for neighbour in seen.neighbours),
        first_id=pod.ids.first,
        ids=pod.ids.length,
    )


def leave(former: tuple[Interface, ...]) -> messages.Configure:
    """The first configuration of a guest that is a copy of one with these interfaces."""
    devices = tuple(messages.Interface(one.mac, one.name, one.mtu, one.addresses) for one in former)
    return messages.Configure(
        interfaces=devices, entropy=os.urandom(ENTROPY_BYTES), unix_ns=time.time_ns(), copied=True
    )


def identify(pod: Pod, network: PodNetwork | None, *, former: tuple[Interface, ...]) -> messages.Configure:
    """The Configure of the pod that a copy becomes, which has devices of the same names."""
    macs = {one.name: one.mac for one in former}
    settings = configure(pod, network, has_waited=True)
    devices = tuple(one._replace(found_mac=macs[one.name]) for one in settings.interfaces)
    return settings._replace(interfaces=devices)
