# SPDX-License-Identifier: Apache-2.0
"""The network of a pool slot whose first plugin is called in advance, with Debian's plugins: what the claim leaves out,
what it makes anew, and that nothing is left behind.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import NetworkFailed
from stage1.linux import namespace, process
from stage1.net import attach, pool_slot, record, reservation
from stage1.net.settings import netns_path
from stage1.pod.model import Pod, Port
from stage1.pod.network import PodNetwork
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist
from tests.fakes.patience import PATIENCE

from .test_spoofing import output_of

PLUGIN = """#!/bin/sh
echo "$CNI_COMMAND {name}" >> {root}/calls
exec {real}/{name}
"""


class Slot:
    """A slot that waits, in a directory of its own; `calls` are those of the plugins, in order."""

    def __init__(self, outer: OuterNet) -> None:
        self.outer, self.pod = outer, Pod(os.urandom(32).hex(), "web", ports=(Port(80, 8080),))
        self.directory = f"{outer.root}/{self.pod.id}"
        os.mkdir(self.directory)
        pool_slot.prepare(self.pod.id, self.directory, settings=outer.settings)

    def reserve(self) -> bool:
        anonymous = self.pod._replace(name="waits", ports=())
        return reservation.make(anonymous, self.directory, settings=self.outer.settings)

    def claim(self) -> PodNetwork:
        seen = attach.attach(self.pod, self.directory, settings=self.outer.settings, join=pool_slot.join)
        assert seen is not None
        attach.note(self.directory, seen)
        return seen

    def calls(self) -> list[str]:
        path = self.outer.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if "host-local" not in line]


@pytest.fixture
def slot(outer: OuterNet) -> Iterator[Slot]:
    bin_dir = outer.root / "bin"
    bin_dir.mkdir()
    for name in ("bridge", "portmap", "host-local", "tuning"):
        (bin_dir / name).write_text(PLUGIN.format(name=name, root=outer.root, real=BIN_DIR))
        (bin_dir / name).chmod(0o755)
    outer.settings = outer.settings._replace(bin_dirs=(str(bin_dir),))
    first = Slot(outer)  # its removal leaves what plugins keep for the next pod
    first.claim()
    attach.detach(first.directory)
    first.calls()
    made = Slot(outer)
    try:
        yield made
    finally:
        with suppress(NetworkFailed):
            attach.detach(made.directory, tries=1)


def leases(outer: OuterNet) -> list[str]:
    return sorted(path.name for path in (outer.root / "leases").rglob("*.*.*.*"))


def test_the_claim_calls_only_the_plugins_that_are_left(slot: Slot, outer: OuterNet) -> None:
    before = outer.state()
    assert slot.reserve() and slot.calls() == ["ADD bridge"]
    (address,) = leases(outer)
    assert attach.read(slot.directory) is None, "nobody's network"
    seen = slot.claim()
    assert slot.calls() == ["ADD portmap"] and seen.ips[0] == address and seen.interfaces[0].tap == pool_slot.TAP
    assert attach.read(slot.directory) == seen
    assert attach.detach(slot.directory) == "" and slot.calls() == ["DEL portmap", "DEL bridge"]
    assert without(outer.state(), slot) == without(before, slot) and not os.path.exists(netns_path(slot.pod.id))


def without(state: str, slot: Slot) -> str:
    """The state without what the slot itself had before."""
    return "\n".join(line for line in state.splitlines() if slot.pod.id not in line and "last_reserved" not in line)


def test_a_pod_gets_the_same_as_one_that_had_no_plugin_called_in_advance(slot: Slot, outer: OuterNet) -> None:
    assert slot.reserve()
    mine, other = slot.claim(), Slot(outer)
    try:
        usual = other.claim()
        assert rules(slot, mine) == rules(other, usual)
        plain = [one.interfaces[0]._replace(mac="", addresses=()) for one in (mine, usual)]
        assert plain[0] == plain[1] and mine.routes == usual.routes and len(mine.ips) == len(usual.ips) == 2
    finally:
        attach.detach(other.directory)


def rules(slot: Slot, seen: PodNetwork) -> list[str]:
    """Of the devices, and how many of the host are about its addresses."""
    with namespace.inside_net(netns_path(slot.pod.id)):
        shown = [output_of("tc", "filter", "show", "dev", name, "parent", "ffff:") for name in ("eth0", "tap0")]
    kept = [line for text in shown for line in text.splitlines() if "redirect" in line.lower()]
    return [*kept, str(sum(address in output_of("iptables-save") for address in seen.ips))]


def test_a_device_that_waits_answers_nobody(slot: Slot, outer: OuterNet) -> None:
    assert slot.reserve()
    (address,) = leases(outer)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.connect((address, 80))


def test_a_slot_that_nobody_claims_gives_its_address_back(slot: Slot, outer: OuterNet) -> None:
    before = outer.state()
    assert slot.reserve() and leases(outer)
    slot.calls()
    assert attach.detach(slot.directory) == attach.detach(slot.directory) == ""
    assert slot.calls() == ["DEL bridge"] and leases(outer) == []
    assert without(outer.state(), slot) == without(before, slot)


def other_mtu(outer: OuterNet) -> None:
    outer.configure(conflist(outer.root, mtu=1300))


def other_bridge(outer: OuterNet) -> None:
    document = conflist(outer.root, mtu=1300)
    document["plugins"][0]["bridge"] = "ct1"
    outer.configure(document)


def no_bridge(outer: OuterNet) -> None:
    output_of("ip", "link", "del", "ct0")


def no_port(outer: OuterNet) -> None:
    (line,) = output_of("ip", "-o", "link", "show", "master", "ct0").splitlines()
    output_of("ip", "link", "set", line.split()[1].partition("@")[0], "nomaster")


@pytest.mark.parametrize("change, mtu", [(other_mtu, 1300), (other_bridge, 1300), (no_bridge, 1400), (no_port, 1400)])
def test_what_is_out_of_date_is_made_anew(
    slot: Slot, outer: OuterNet, change: Callable[[OuterNet], None], mtu: int
) -> None:
    assert slot.reserve()
    slot.calls()
    change(outer)
    seen = slot.claim()
    assert slot.calls() == ["DEL bridge", "ADD bridge", "ADD portmap"] and seen.interfaces[0].mtu == mtu
    bridge = "ct1" if change is other_bridge else "ct0"
    assert len(output_of("ip", "-o", "link", "show", "master", bridge).splitlines()) == 1
    assert attach.detach(slot.directory) == "" and leases(outer) == []


def first(**more: Any) -> Callable[[OuterNet], None]:
    def configure(outer: OuterNet) -> None:
        document = conflist(outer.root)
        document["plugins"][0].update(more)
        outer.configure(document)

    return configure


def nothing(outer: OuterNet) -> None:
    shutil.rmtree(outer.root / "net.d")


@pytest.mark.parametrize(
    "configure",
    [
        nothing,
        first(type="ptp"),
        first(capabilities={"dns": True}),
        first(capabilities={"mac": True}),
        first(ipam={}),
        first(ipam={"type": "static", "addresses": [{"address": "10.77.0.9/24"}]}),
        first(ipam={"type": "dhcp"}),
        lambda outer: outer.configure({"cniVersion": "7.0.0", "name": "x", "plugins": [{"type": "bridge"}]}),
        lambda outer: outer.configure({"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "portmap"}]}),
    ],
)
def test_no_other_plugin_is_called_before(slot: Slot, outer: OuterNet, configure: Callable[[OuterNet], None]) -> None:
    configure(outer)
    assert not slot.reserve() and slot.calls() == [] and leases(outer) == []


def test_a_plugin_that_fails_in_advance_leaves_a_slot_that_can_be_claimed(slot: Slot, outer: OuterNet) -> None:
    before = outer.state()
    working = (outer.root / "bin/host-local").read_text()
    (outer.root / "bin/host-local").write_text("#!/bin/sh\n[ $CNI_COMMAND = DEL ] || exit 1\n")
    with pytest.raises(NetworkFailed, match="bridge"):
        slot.reserve()
    assert slot.calls() == ["ADD bridge", "DEL bridge"] and leases(outer) == []
    assert without(outer.state(), slot) == without(before, slot)
    (outer.root / "bin/host-local").write_text(working)
    assert slot.claim().ips and slot.calls() == ["ADD bridge", "ADD portmap"]


def test_what_is_reserved_is_known_after_a_power_cut(slot: Slot, outer: OuterNet) -> None:
    """Of the slot's two files only the first is synced."""
    assert slot.reserve()
    Path(record.linked(slot.directory)).write_bytes(b"")
    known = record.load_first(record.linked(slot.directory))
    assert known is not None and known.attachments[0].result is not None
    assert attach.detach(slot.directory) == "" and leases(outer) == []


def test_a_claim_that_fails_gives_all_back(slot: Slot, outer: OuterNet) -> None:
    assert slot.reserve()
    (outer.root / "bin/portmap").write_text("#!/bin/sh\n[ $CNI_COMMAND = DEL ] || exit 1\n")
    with pytest.raises(NetworkFailed, match="portmap"):
        slot.claim()
    assert leases(outer) == [] and not os.path.exists(netns_path(slot.pod.id))
    assert process.run(["ip", "link", "show", "master", "ct0"], timeout_s=9 * PATIENCE).stdout == b""
