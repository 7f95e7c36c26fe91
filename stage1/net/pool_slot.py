# SPDX-License-Identifier: Apache-2.0
"""The network of a prewarmed pod: a netns with one tap, on which a VM waits.

`prepare` is for `stage1.prewarmed`, before a pod waits for it; `join` is what attach does in that netns after the
plugins have made the pod's device. The guest waits with a hardware address that all such guests have, each alone on its
tap, and takes over the device's.
"""

from stage1.errors import Unsupported
from stage1.linux import files, namespace
from stage1.net import messages, record, tap
from stage1.net.queries import query
from stage1.net.record import Record
from stage1.net.settings import Settings, netns_path
from stage1.net.tap_links import LOOPBACK, TapLinks
from stage1.pod.network import WAITING_MAC, Interface, PodNetwork, waiting_mac

MAC = WAITING_MAC
TAP = "tap0"
"""A name that tap gives to none, since no device has the number 0."""
_MTU = 65521
"""The most that a tap can have: the guest is told the device's own, and nothing on the way shall be smaller."""


def prepare(pod_id: str, directory: str, *, settings: Settings, devices: int = 1) -> PodNetwork:
    """Make netns and taps, one for `join`; what the VM must know of them. Undo, at any step: `attach.detach`. Raises
    NetworkFailed.
    """
    plan = Record(netns_path(pod_id), settings.bin_dirs, settings.limit_s, (), directory=directory)
    files.make_dirs(settings.cache_dir, 0o700)
    path = record.place(settings.cache_dir, pod_id)
    record.link(directory, path)  # first, as in attach
    record.reserve(path, plan)
    interfaces = tuple(Interface(f"eth{number}", waiting_mac(number), tap=f"tap{number}") for number in range(devices))
    namespace.make_net(plan.netns)
    with namespace.inside_net(plan.netns), TapLinks() as links:
        links.ask((messages.up(LOOPBACK),), what="set up lo")
        for one in interfaces:
            links.set_up(one.tap, mtu=_MTU)
    return PodNetwork(interfaces)


def join(is_held: bool = False, *, is_free: bool = False) -> PodNetwork:
    """Connect in the pod's netns, now the current one: the device that the plugins made and the tap become one line, on
    which the pod sends what is its own, or everything if it `is_free`. If it `is_held`, `reservation` has made it.

    Raises Unsupported when they made more devices than one, which a guest that runs already can't get, NetworkFailed.
    """
    with TapLinks() as links:
        seen = query(links)
        numbers = seen.numbers()
        devices = tap.interfaces([link for link in seen.links if link["ifname"] != TAP])
        if len(devices) > 1:
            names = ", ".join(one.name for one in devices)
            why = f"but the plugins made {names}; use one network, or no pool"
            raise Unsupported(f"a prewarmed VM has one network device, {why}")
        devices = tuple(one._replace(tap=TAP) for one in devices)
        for one in devices:
            links.join(one, numbers, is_free=is_free, is_held=is_held)
    return tap.network(devices, seen)
