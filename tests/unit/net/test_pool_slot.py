# SPDX-License-Identifier: Apache-2.0
"""The network of a pool slot: what waits, how a pod claims it, and how all of it goes. Needs root."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import KernelError, NetworkFailed, Unsupported
from stage1.linux import bpf, namespace, process
from stage1.linux.netlink import Netlink, attribute, attributes
from stage1.net import attach, messages, pool_slot, record, tap
from stage1.net.queries import query
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

ODD = """link add eth0 type veth peer name peer0
link set peer0 up
link set eth0 mtu 1450 up
addr add 10.9.0.5/24 dev eth0
addr add 10.8.0.5 peer 10.8.0.1/32 dev eth0
addr add fd09::5/64 dev eth0 nodad
addr add fd08::5 peer fd08::1/128 dev eth0 nodad
route add default via 10.9.0.1 metric 7 mtu 1400 advmss 1360
route add 10.20.0.0/16 via 10.9.0.2
route add 10.30.0.1 dev eth0
route add unreachable 10.40.0.0/16
route add 10.50.0.0/16 dev eth0 table 99
route add default via fd09::1
route add fd20::/64 dev eth0 metric 3
route add fd30::/64 dev eth0 table 99
neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
neigh add 10.9.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable
neigh add fd09::1 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
neigh add proxy 10.9.0.8 dev eth0
link add br0 type bridge
link add eth1 type veth peer name peer1
link set eth1 master br0
"""


BY_TC = """qdisc add dev one ingress
qdisc add dev two ingress
filter add dev one parent ffff: protocol all pref 1 u32 match u8 0 0 action mirred egress redirect dev two
filter add dev two parent ffff: protocol all pref 1 u32 match u8 0 0 action mirred egress redirect dev one
"""


@pytest.fixture
def here() -> Iterator[str]:
    """A netns, in which the test is."""
    path = f"/run/netns/t-spare-{os.urandom(4).hex()}"
    namespace.make_net(path)
    try:
        with namespace.inside_net(path):
            yield path
    finally:
        namespace.remove_net(path)


def ip(*arguments: str, batch: str = "") -> Any:
    """What `ip` says, as JSON."""
    ended = process.run(["ip", "-json", *arguments], timeout_s=10 * PATIENCE, input=batch.encode())
    assert ended.code == 0, ended.stderr.decode()
    return json.loads(ended.stdout or b"[]")


def test_our_dump_of_a_netns_equals_that_of_ip(here: str) -> None:
    ip("-batch", "-", batch=ODD)
    with Netlink() as netlink:
        seen = query(netlink)
    links = ip("addr", "show")
    theirs = tap.Seen(links, ip("route", "show"), ip("neigh", "show", "nud", "permanent"), ip("-6", "route", "show"))
    result = tap.interfaces(links)
    assert {one.name for one in result} == {"eth0", "peer0", "peer1", "br0"} and tap.interfaces(seen.links) == result
    told = tap.network(result, seen)
    assert told == tap.network(result, theirs)
    assert len(told.routes) == 5 and len(told.neighbours) == 2, told


def test_the_same_rules_are_made_as_by_tc(here: str) -> None:
    ip("-batch", "-", batch="".join(f"link add {name} type bridge\n" for name in ("one", "two", "three", "four")))
    assert process.run(["tc", "-batch", "-"], timeout_s=9 * PATIENCE, input=BY_TC.encode()).code == 0
    three, four = (ip("link", "show", name)[0]["ifindex"] for name in ("three", "four"))
    with Netlink() as netlink:
        pairs = ((three, four), (four, three))
        netlink.ask([messages.ingress(at) for at, _ in pairs], what="ingress")
        netlink.ask([messages.redirect(*pair) for pair in pairs], what="redirect")
        with pytest.raises(KernelError, match="netlink: once more: File exists"):
            netlink.ask([messages.ingress(three)], what="once more")
        with pytest.raises(KernelError, match="No such device"):
            netlink.ask([messages.ingress(999)], what="nowhere")
    assert "mirred (Egress Redirect to device two)" in _filters("one")
    assert _filters("one").replace("device two", "device four") == _filters("three")
    assert _filters("two").replace("device one", "device three") == _filters("four")


def test_the_filters_of_a_tap_are_made_as_by_tc(here: str) -> None:
    ip("-batch", "-", batch="".join(f"link add {name} type bridge\n" for name in ("one", "two", "three")))
    one, two = (ip("link", "show", name)[0]["ifindex"] for name in ("one", "two"))
    steps = bpf.load(12, bpf.HALF) + bpf.need(0x0800) + bpf.ACCEPT
    bytecode = ",".join(
        [str(bpf.steps(steps)), *(" ".join(map(str, one)) for one in struct.iter_unpack("=HBBI", steps))]
    )
    by_tc = f"""qdisc add dev three ingress
filter add dev three parent ffff: protocol all pref 1 bpf bytecode "{bytecode}" action mirred egress redirect dev two
filter add dev three parent ffff: protocol all pref 2 bpf da bytecode "1,6 0 0 2"
"""
    ended = process.run(["tc", "-batch", "-"], timeout_s=9 * PATIENCE, input=by_tc.encode())
    assert ended.code == 0, ended.stderr
    with Netlink() as netlink:
        admit = messages.admit(one, two, program=steps)
        netlink.ask([messages.ingress(one), messages.drop(one), admit], what="filters")
    assert _filters("one") == _filters("three")
    assert "direct-action" in _filters("one") and "Redirect to device two" in _filters("one")


def _filters(device: str) -> str:
    text = process.run(
        ["tc", "filter", "show", "dev", device, "parent", "ffff:"], timeout_s=9 * PATIENCE
    ).stdout.decode()
    return "\n".join(line for line in text.splitlines() if "index" not in line)


def test_attributes_that_are_cut_off_are_left_out() -> None:
    whole = attribute(1, b"abc") + attribute(2, b"defgh")
    assert attributes(whole) == {1: b"abc", 2: b"defgh"}
    for length in range(len(whole)):
        assert attributes(whole[:length]).items() <= {1: b"abc", 2: b"defgh"}.items()
    assert attributes(b"\0" * 8) == {} and attributes(b"\x03\0\1\0") == {}


class Waiting:
    """A pod's network that waits in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.cni = FakeCni(root / "cni")
        self.cni.make_one_device()
        self.pod = Pod(os.urandom(32).hex(), "web")
        self.directory = str(root / "pod")
        os.mkdir(self.directory)
        self.told = pool_slot.prepare(self.pod.id, self.directory, settings=self.cni.settings)

    def attach(self) -> PodNetwork | None:
        seen = attach.attach(self.pod, self.directory, settings=self.cni.settings, join=pool_slot.join)
        if seen:
            attach.note(self.directory, seen)
        return seen

    def is_gone(self) -> bool:
        return self.cni.left_over() == [] and not os.path.exists(netns_path(self.pod.id))


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    made = Waiting(tmp_path)
    try:
        yield made
    finally:
        attach.detach(made.directory)


def test_a_slot_has_a_tap_and_no_plugin_was_asked(waiting: Waiting) -> None:
    (one,) = waiting.told.interfaces
    assert (one.name, one.tap, one.addresses) == ("eth0", "tap0", ())
    with namespace.inside_net(netns_path(waiting.pod.id)):
        links = {link["ifname"]: link for link in ip("link", "show")}
    assert links.keys() == {"lo", "tap0"} and all("UP" in link["flags"] for link in links.values())
    assert waiting.cni.calls() == [] and attach.read(waiting.directory) is None


def test_an_unclaimed_slot_is_removed_without_a_plugin(waiting: Waiting) -> None:
    assert attach.detach(waiting.directory) == attach.detach(waiting.directory) == ""
    assert waiting.is_gone() and waiting.cni.calls() == [] and os.listdir(waiting.cni.settings.cache_dir) == []


def test_a_pod_gets_the_spares_netns_and_what_others_get(waiting: Waiting, tmp_path: Path) -> None:
    path = netns_path(waiting.pod.id)
    number = os.stat(path).st_ino
    got = waiting.attach()
    usual = attach.attach(Pod("usual", "web"), str(tmp_path), settings=waiting.cni.settings)
    attach.detach(str(tmp_path))
    assert got is not None and usual is not None and os.stat(path).st_ino == number
    assert got.interfaces[0].tap == "tap0" and usual.interfaces[0].tap != "tap0"
    plain = usual.interfaces[0]._replace(tap="tap0", mac=got.interfaces[0].mac)
    assert got == usual._replace(interfaces=(plain,)) == attach.read(waiting.directory)
    with namespace.inside_net(path):
        assert "Redirect to device tap0" in _filters("eth0") and "Redirect to device eth0" in _filters("tap0")
    assert attach.detach(waiting.directory) == "" and waiting.is_gone()


def test_when_a_plugin_fails_the_slot_is_used_up(waiting: Waiting) -> None:
    waiting.cni.trouble("second", "ADD", "exit 1")
    with pytest.raises(NetworkFailed):
        waiting.attach()
    assert waiting.is_gone()


def test_two_devices_are_too_many_and_go_again(waiting: Waiting) -> None:
    batch = waiting.cni.root / "batch"
    batch.write_text(batch.read_text() + "link add eth7 type bridge\n")
    with pytest.raises(Unsupported, match=r"one network device.*eth7"):
        waiting.attach()
    assert waiting.is_gone() and waiting.cni.calls()[-1] == "DEL first"


def test_what_was_begun_can_be_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_slot, "_MTU", 1 << 20)
    with pytest.raises(NetworkFailed, match=r"network namespace: .*tap0: Invalid argument"):
        Waiting(tmp_path)
    (pod,) = record.every(f"{tmp_path}/cni/cache")
    assert attach.detach(f"{tmp_path}/pod") == "" and not os.path.exists(netns_path(pod))
    assert record.every(f"{tmp_path}/cni/cache") == {}
