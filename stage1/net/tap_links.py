# SPDX-License-Identifier: Apache-2.0
"""Creates taps in a pod's network namespace, and links each to its device. Called by attach and pool_slot, in the
namespace: everything acts on the current one and ends with it. Starts no process.
"""

from __future__ import annotations

import _socket
import os
from types import TracebackType

from stage1.errors import Exhausted, KernelError, NetworkFailed
from stage1.linux import tun
from stage1.linux.netlink import Netlink
from stage1.net import messages, own, tap
from stage1.net.queries import query
from stage1.pod.network import Interface, PodNetwork

LOOPBACK = 1
"""Its number in every netns."""
_IPV6 = "/proc/net/if_inet6"
_NEEDS = "by CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF of the kernel"


class TapLinks(Netlink):
    """`with TapLinks() as links:` a netlink socket in the current netns; what fails in the block is a NetworkFailed."""

    def __enter__(self) -> TapLinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, KernelError) and not isinstance(error, Exhausted):
            raise NetworkFailed(f"in the pod's network namespace: {error}") from None

    def set_up(self, name: str, *, mtu: int) -> int:
        """A tap of that name, up and ready to be joined; its number. Until then all that the guest sends is dropped."""
        tun.make_tap(name)
        index = _socket.if_nametoindex(name)
        self.hold(index, name)
        self.ask((messages.up(index, mtu=mtu, is_mute=os.path.exists(_IPV6)),), what=f"set up {name}")
        return index

    def hold(self, index: int, name: str) -> None:
        """Drop what the device receives until it is joined. Raises KernelError."""
        self.ask((messages.ingress(index), messages.drop(index)), what=f"filter what {name} receives ({_NEEDS})")

    def join(self, device: Interface, numbers: dict[str, int], *, is_free: bool, is_held: bool = False) -> None:
        """Redirect what the device receives to its tap, and, the other way round, what the pod may send as its own:
        everything, if it `is_free`. Both devices are in `numbers`; the first may be held.
        """
        here, there = numbers[device.name], numbers[device.tap]
        back = messages.redirect(there, here) if is_free else messages.admit(there, here, program=own.program(device))
        first = () if is_held else (messages.ingress(here),)
        requests = (*first, messages.redirect(here, there), back)
        self.ask(requests, what=f"redirect {device.name} and {device.tap} to each other")


def join_all(*, is_free: bool = False) -> PodNetwork:
    """Make a tap for each device and join both; return the guest's settings. Raises NetworkFailed."""
    with TapLinks() as links:
        seen = query(links)
        devices, numbers = tap.interfaces(seen.links), seen.numbers()
        links.ask((messages.up(LOOPBACK),), what="set up lo")
        for one in devices:
            numbers[one.tap] = links.set_up(one.tap, mtu=one.mtu)
            links.join(one, numbers, is_free=is_free)
    return tap.network(devices, seen)


def cut_all() -> None:
    """Set all taps in this netns down, so that guests are cut off. Raises NetworkFailed."""
    with TapLinks() as links:
        seen = query(links)
        numbers = seen.numbers()
        for name in (one.tap for one in tap.interfaces(seen.links) if one.tap in numbers):
            links.ask((messages.down(numbers[name]),), what=f"set down {name}")


def as_they_are() -> PodNetwork:
    """Prepare the namespace for processes in it instead of a guest: the devices are not changed, and the loopback is
    up.
    """
    with TapLinks() as links:
        devices = tap.interfaces(query(links).links)
        links.ask((messages.up(LOOPBACK),), what="set up lo")
    return PodNetwork(tuple(one._replace(tap="") for one in devices))


def stand_in(lost: tuple[Interface, ...]) -> bool:
    """Create dummies for devices that do not exist any more, by name and addresses, so that DEL can find and delete
    them. Return whether there were any. Raises NetworkFailed.
    """
    with TapLinks() as links:
        names = query(links).numbers()
        missing = [one for one in lost if one.name not in names]
        for one in missing:
            tun.make_tap(one.name)
            index = _socket.if_nametoindex(one.name)
            requests = [
                messages.address(index, text) for text in sorted(one.addresses, key=lambda text: ":" not in text)
            ]
            links.ask(requests, what=f"give {one.name} the addresses {', '.join(one.addresses)}")
    return bool(missing)
