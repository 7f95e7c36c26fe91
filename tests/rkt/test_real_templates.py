# SPDX-License-Identifier: Apache-2.0
"""The real rkt and templates: rm makes them; later pods, sandboxes, pods in two networks are copies."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rkt import stage1_image
from tests.rkt.real import RealRkt, removed, sh
from tests.rkt.test_real_networks import host as host
from tests.vm.agent_machine import missing

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.only_on("qemu", "only QEMU can save a guest"),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
HOW = "grep -q clearpod.template /proc/cmdline && echo copy || echo booted"
NETWORKS = {"first": "10.98.0.0/24", "second": "10.97.0.0/24"}


@pytest.fixture(scope="module")
def rkt(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path, host: int) -> Iterator[RealRkt]:
    """rkt with two networks, in a host of the test's own."""
    if lacks := missing():
        pytest.skip(lacks)
    place = tmp_path_factory.mktemp("rkt")
    made = RealRkt(place, stage1_image.archive(guest_dir))
    made.prefix = ["nsenter", f"--target={host}", "--net", "--mount", *made.prefix, f"--local-config={place}/local"]
    (place / "local/net.d").mkdir(parents=True)
    for name, subnet in NETWORKS.items():
        ipam = {"type": "host-local", "subnet": subnet, "dataDir": f"{place}/leases"}
        bridge = {"name": name, "type": "bridge", "bridge": f"br-{name}", "isGateway": True, "ipam": ipam}
        (place / f"local/net.d/{name}.conf").write_text(json.dumps(bridge))
    yield made
    made.clean()


def test_a_pod_boots_and_the_next_one_of_its_kind_is_a_copy(rkt: RealRkt, app: Path) -> None:
    for expected in ("booted", "copy"):
        pod = rkt.run(app, *sh(f"{HOW}; exit 7"))
        done = pod.finish()
        assert (done.code, done.out) == (7, f"{expected}\n"), done.err
        removed(rkt, pod)


def test_each_device_of_a_copy_has_the_address_of_its_network(rkt: RealRkt, app: Path) -> None:
    for expected in ("booted", "copy"):
        show = "for one in eth0 eth1; do ip -o -4 addr show dev $one | grep -o 'inet [0-9.]*'; done"
        pings = "for one in 10.98.0.1 10.97.0.1; do ping -c 1 -W 20 $one > /dev/null && echo reached; done"
        pod = rkt.run(app, *sh(f"{HOW}; {show}; {pings}"), net="first,second")
        done = pod.finish()
        addresses = {one["netName"]: one["ip"] for one in pod.listed()["networks"]}
        lines = [expected, f"inet {addresses['first']}", f"inet {addresses['second']}", "reached", "reached"]
        assert (done.code, done.out.split("\n")) == (0, [*lines, ""]), done.err
        removed(rkt, pod)


def test_apps_come_to_a_sandbox_that_is_a_copy(rkt: RealRkt, app: Path) -> None:
    image_id = rkt.call("fetch", app).out.split()[-1]
    """Of the kind of pods with empty volumes, so that the first one may be a copy, too."""
    for expected in (("booted\n", "copy\n"), ("copy\n",)):
        pod = rkt.run(command="app sandbox")
        assert rkt.call("status", "--wait-ready", pod.uuid).code == 0
        line = f"{{ {HOW}; }} > /how; sync; exec sleep 1000"
        done = rkt.call("app", "add", pod.uuid, image_id, "--name=one", *sh(line))
        assert done.code == 0, done.err
        assert rkt.call("app", "start", pod.uuid, "--app=one").code == 0
        done = pod.enter("/bin/sh", "-c", "while ! [ -s /how ]; do sleep 0.1; done; cat /how", app="one")
        assert done.code == 0 and done.out in expected, done
        assert rkt.call("stop", pod.uuid).code == 0 and pod.finish().code == 0
        removed(rkt, pod)


def test_where_the_administrator_forbids_them_all_pods_boot_and_rm_makes_none(
    tmp_path: Path, guest_dir: Path, app: Path
) -> None:
    rkt = RealRkt(tmp_path, stage1_image.archive(guest_dir))
    rkt.forbid_templates()
    for _ in range(2):
        pod = rkt.run(app, *sh(HOW))
        done = pod.finish()
        assert (done.code, done.out) == (0, "booted\n"), done.err
        removed(rkt, pod)
    assert os.readlink(rkt.data / "clearpod/vm-templates") == "/dev/null"
    rkt.clean()
