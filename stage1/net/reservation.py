# SPDX-License-Identifier: Apache-2.0
"""The network of a pool slot that nobody has claimed: the first plugin of the node's network is called when the slot
is filled, if its answer does not depend on the pod. The claim calls the others.

Called by prewarmed and attach. What was made is in the slot's record as a pod's is, and goes with it
(docs/design/network.md).
"""

import _socket

from stage1.errors import BadRequest, KernelError, PodError
from stage1.linux import namespace
from stage1.linux.netlink import Netlink
from stage1.net import networks, protocol, queries, record, tap
from stage1.net.conflist import Network
from stage1.net.lock import AttachLock
from stage1.net.plugins import Runner
from stage1.net.pool_slot import TAP
from stage1.net.protocol import Document
from stage1.net.record import Attachment, Record
from stage1.net.settings import IFNAME, Settings, netns_path
from stage1.net.tap_links import TapLinks
from stage1.pod.model import Pod

_PLUGIN, _IPAM = "bridge", "host-local"
"""Both take nothing from the pod but its id and the name of its device."""


def make(pod: Pod, directory: str, *, settings: Settings) -> bool:
    """Call the first plugin for the slot that has the pod's id; whether there is one that can be called now. What its
    device receives is dropped until the claim.

    Undo: `attach.detach`, or the claim. Raises NetworkFailed when the plugin fails, after its DEL, and KernelError: the
    slot has no network then, or one that the claim replaces.
    """
    try:
        network = next(iter(networks.chosen((), settings)), None)
    except BadRequest:  # reported by who needs it
        network = None
    if network is None or not _is_same_for_all(network):
        return False
    path = record.place(settings.cache_dir, pod.id)
    call = protocol.call_for(pod, netns_path(pod.id), ifname=IFNAME)._replace(runtime={})
    one = Attachment(network, call, deleted=tuple(range(1, len(network.plugins))))
    plan = Record(call.netns, settings.bin_dirs, settings.limit_s, (one,), directory=directory)
    with AttachLock():
        record.begin(path, plan)
        try:
            result = Runner(plan.bin_dirs, plan.limit_s).add_first(network, call)
            plan = plan._replace(attachments=(one._replace(result=result),))
            _hold(call.netns)
            record.reserve(path, plan)
        except PodError as error:
            _try_to_give_back(path, plan, because=error)
            raise
    return True


def _is_same_for_all(network: Network) -> bool:
    """Whether the network's first plugin answers the same whatever pod it is called for."""
    first = network.plugins[0]
    ipam = first.get("ipam")
    is_known = first["type"] == _PLUGIN and isinstance(ipam, dict) and ipam.get("type") == _IPAM
    return is_known and not first.get("capabilities")


def _hold(netns: str) -> None:
    """Drop what the new devices receive, which no guest expects yet, and the netns itself shall not answer."""
    with namespace.inside_net(netns), TapLinks() as links:
        seen = queries.query(links)
        numbers = seen.numbers()
        for one in tap.interfaces([link for link in seen.links if link["ifname"] != TAP]):
            links.hold(numbers[one.name], one.name)


def continued(path: str, plan: Record) -> tuple[Record, bool]:
    """The plan of a claim, with what `make` has made for its first network; whether there is that. It is given back
    first if it is not what the plan needs: another configuration counts now, or the host has lost the device's bridge.

    Raises NetworkFailed when it can't be given back.
    """
    known = record.load(path)
    if known is None or not known.attachments:
        return plan, False
    (one,), (first, *others) = known.attachments, plan.attachments
    is_current = (one.network, one.call.ifname, known.bin_dirs) == (first.network, first.call.ifname, plan.bin_dirs)
    if one.result is None or not is_current or not _is_connected(one.result):
        _give_back(path, known)
        return plan, False
    return plan._replace(attachments=(first._replace(result=one.result), *others)), True


def _is_connected(result: Document) -> bool:
    """Whether the host's end of the pod's device is still a port of the bridge, the two that the plugin names first;
    what it does not name is not examined.
    """
    names = [one.get("name") for one in result.get("interfaces") or [] if not one.get("sandbox")]
    if len(names) < 2:
        return True
    bridge, port = names[:2]
    try:
        with Netlink() as netlink:
            return queries.master(netlink, str(port)) == _socket.if_nametoindex(str(bridge))
    except (OSError, KernelError):
        return False


def _give_back(path: str, known: Record) -> None:
    (one,) = known.attachments
    runner = Runner(known.bin_dirs, known.limit_s)
    failures = runner.delete(one.network, one.call, previous=one.result, done=one.deleted, is_lost=False)
    if failures:
        raise next(iter(failures.values()))
    record.save(path, known._replace(attachments=()))


def _try_to_give_back(path: str, known: Record, *, because: PodError) -> None:
    """Roll back; what can't be undone now stays recorded, for the claim and `attach.detach`, and the error says so."""
    try:
        _give_back(path, known)
    except PodError as second:
        because.add_note(f"and {second}")
