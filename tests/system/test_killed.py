# SPDX-License-Identifier: Apache-2.0
"""A process that is killed between any two steps of a pod's network: what it left is removed to the last rule."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.linux import namespace, process
from stage1.net import attach, record
from stage1.net.settings import Settings, netns_path
from stage1.pod.model import Pod, Port
from tests.fakes.bare_pods import Pods
from tests.fakes.cni import FakeCni
from tests.fakes.dying import die
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE

PORTS = (Port(80, 8080), Port(53, 5353, "udp", "127.0.0.1"))
LEAST_STEPS = {"attach": 17, "detach": 5}
"""Fewer would mean that the deaths miss what they are for."""


class Place:
    """A pod's directory that a killed process leaves, and the way back as the daemon goes it after a restart."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.settings, self.id = settings, os.urandom(32).hex()
        self.directory = f"{root}/{self.id}"
        os.mkdir(self.directory)

    def recover(self) -> None:
        """Collect the directory, twice, and then sweep records without one."""
        assert attach.detach(self.directory) == attach.detach(self.directory) == ""
        os.rmdir(self.directory)
        for path in record.every(self.settings.cache_dir).values():
            attach.detach_recorded(path)
        assert not os.path.exists(netns_path(self.id)) and os.listdir(self.settings.cache_dir) in ([], ["run"])


def all_steps(verb: str, at: Callable[[int], bool]) -> None:
    """Die at each step there is."""
    step = 0
    while at(step):
        step += 1
    assert step >= LEAST_STEPS[verb], f"only {step} steps"


@pytest.mark.parametrize("verb", ["attach", "detach"])
@pytest.mark.parametrize("networks", [(), ("more",)])
def test_whatever_the_step_with_fake_plugins(tmp_path: Path, verb: str, networks: tuple[str, ...]) -> None:
    cni = FakeCni(tmp_path / "cni")
    text = (cni.root / "net.d" / "10.conflist").read_text()
    (cni.root / "net.d" / "20.conflist").write_text(text.replace('"fake"', '"more"'))
    (cni.root / "batch").write_text("link add DEVICE type veth peer name p-DEVICE\nlink set DEVICE up\n")

    def at(step: int) -> bool:
        place = Place(tmp_path, cni.settings)
        if verb == "detach":
            attach.attach(Pod(place.id, "web", networks=networks), place.directory, settings=cni.settings)
        is_dead = die(step, verb, place.directory, settings=cni.settings, networks=networks)
        place.recover()
        assert cni.left_over() == [], step
        return is_dead

    all_steps(verb, at)


@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_whatever_the_step_with_debians_plugins(outer: OuterNet, verb: str) -> None:
    before = Pods(outer).warm_up()

    def at(step: int) -> bool:
        place = Place(outer.root, outer.settings)
        if verb == "detach":
            attach.attach(Pod(place.id, "web", ports=PORTS), place.directory, settings=outer.settings)
        is_dead = die(step, verb, place.directory, settings=outer.settings, ports=PORTS)
        place.recover()
        assert outer.state() == before, f"step {step} of {verb}"
        return is_dead

    all_steps(verb, at)


@pytest.mark.parametrize("step", [*range(6, 18, 2), 99])
def test_a_reboot_in_the_middle_leaves_no_lease_and_no_record(outer: OuterNet, step: int) -> None:
    """A reboot takes namespaces, devices and rules, but neither leases nor records."""
    place = Place(outer.root, outer.settings)
    assert die(step, "attach", place.directory, settings=outer.settings, ports=PORTS) is (step != 99)
    namespace.remove_net(netns_path(place.id))
    flush = "for t in iptables ip6tables; do $t -t nat -F && $t -t nat -X && $t -F && $t -X; done; ip link del ct0"
    process.run(["sh", "-c", flush], timeout_s=20 * PATIENCE)
    place.recover()
    leases = [path.name for path in (outer.root / "leases").rglob("*") if path.is_file()]
    assert [name for name in leases if name != "lock" and not name.startswith("last_reserved")] == []


SECOND_PLUGIN = 11
"""The step at which it is started: the first one's report is written."""


@pytest.mark.parametrize("step", [SECOND_PLUGIN, 16, 18, 20])
def test_a_netns_that_goes_in_the_middle_leaks_no_rule(outer: OuterNet, step: int) -> None:
    """What the plugins reported before the death is enough to find their rules."""
    before = Pods(outer).warm_up()
    place = Place(outer.root, outer.settings)
    die(step, "attach", place.directory, settings=outer.settings, ports=PORTS)
    namespace.remove_net(netns_path(place.id))
    place.recover()
    assert outer.state() == before
