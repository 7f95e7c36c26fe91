# SPDX-License-Identifier: Apache-2.0
"""A pod's network as far as it can be made ahead of the pod: a netns with one tap, on which a VM waits.

`prepare` is for `stage1.ahead`, when nobody waits; `join` is what attach does in that netns after the plugins have made
the pod's device. The guest waits with a hardware address that all such guests have, each alone on its tap, and takes
over the device's. No process is started for a pod that comes: that would be most of the time it has to wait for us.
"""

from stage1.errors import NetworkFailed, Unsupported
from stage1.linux import files, namespace, process
from stage1.linux.netlink import Netlink
from stage1.net import record, tap
from stage1.net.look import look
from stage1.net.record import Record
from stage1.net.redirect import ingress, redirect
from stage1.net.settings import Settings, netns_path
from stage1.pod.network import Interface, PodNetwork

MAC = "02:63:6c:70:6f:64"
TAP = "tap0"
"""A name that tap gives to none, since no device has the number 0."""
_MTU = 65521
"""The most that a tap can have: the guest is told the device's own, and nothing on the way shall be smaller."""
_TOOL_S = 10.0
_TOOLS = (
    (
        ["ip", "-batch", "-"],
        f"{tap.LOOPBACK}tuntap add dev {TAP} mode tap user 0\n"
        f"link set dev {TAP} mtu {_MTU} addrgenmode none\nlink set dev {TAP} up\n",
    ),
    (["tc", "-batch", "-"], f"qdisc add dev {TAP} ingress\n"),
)


def prepare(pod_id: str, directory: str, *, settings: Settings) -> PodNetwork:
    """Make netns and tap; what the VM must know of them. Undo, at any step: `attach.detach`. Raises NetworkFailed."""
    plan = Record(netns_path(pod_id), settings.bin_dirs, settings.limit_s, ())
    files.make_dirs(settings.cache_dir, 0o700)
    path = record.place(settings.cache_dir, pod_id)
    record.save(path, plan)
    record.link(directory, path)
    namespace.make_net(plan.netns)
    with namespace.inside_net(plan.netns):
        for argv, batch in _TOOLS:
            ended = process.run(argv, timeout_s=_TOOL_S, input=batch.encode())
            if ended.code != 0:
                said = ended.stderr.decode("utf-8", "replace").strip()
                raise NetworkFailed(f"{argv[0]} failed in the network namespace of a pod that waits: {said}")
    return PodNetwork((Interface("eth0", MAC, tap=TAP),))


def join() -> PodNetwork:
    """In the pod's netns, now the current one: the device that the plugins made and the tap become one line.

    Raises Unsupported when they made more devices than one, which a guest that runs already can't get.
    """
    with Netlink() as netlink:
        seen = look(netlink)
        numbers = {link["ifname"]: link["ifindex"] for link in seen.links}
        found = tap.interfaces([link for link in seen.links if link["ifname"] != TAP])
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise Unsupported(f"a guest that has waited has one network device, and the plugins have made {names}")
        found = tuple(one._replace(tap=TAP) for one in found)
        for one in found:
            here, there = numbers[one.name], numbers[TAP]
            messages = (ingress(here), redirect(here, there), redirect(there, here))
            netlink.ask(messages, what=f"redirect {one.name} and {TAP} to each other")
    return tap.network(found, seen)
