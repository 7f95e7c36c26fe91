# SPDX-License-Identifier: Apache-2.0
"""The agent's part of a user namespace: images of the window get the pod's owners, network devices move into it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import AgentFailed, BadRequest, NotFound, PodError
from stage1.guest.messages import (
    Configure,
    Connect,
    Create,
    Delete,
    Interface,
    MountImage,
    Route,
    Stats,
    Sysctl,
    UnmountImage,
)
from stage1.rootfs.flat import flatten
from tests.fakes.oci_layout import CAP_NET_RAW, file
from tests.vm.agent_machine import MACS, Machine, make_image, missing
from tests.vm.test_window_qemu import Placed, WindowMachine, busybox_layer, output_of, pulled

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=missing() or "all there"),
]

FIRST, IDS = 200000, 65536
NAMESPACES = [{"type": "mount"}] + [
    {"type": kind, "path": f"/run/clearpod/pause.{name}-ns"}
    for kind, name in (("user", "user"), ("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
]
CAPABLE = (("security.capability", CAP_NET_RAW),)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WindowMachine, Placed]]:
    """A guest with one image in its window."""
    root = tmp_path_factory.mktemp("image")
    make_image(root / "tree")
    base = busybox_layer(root / "tree")
    busybox = next(entry.data for entry in base if entry.name == "bin/busybox")
    top = [file("web", b"web", 0o640, uid=33, gid=34), file("capable/cat", busybox, 0o755, xattrs=CAPABLE)]
    placed = Placed("a" * 64, 0, flatten(pulled(root, "one", [*base, *top])))
    vm = WindowMachine(tmp_path_factory.mktemp("window"), [placed])
    try:
        vm.client.call(Configure(hostname="pod", first_id=FIRST, ids=IDS))
        vm.client.call(MountImage(placed.name, placed.offset, placed.size))
        yield vm, placed
        vm.client.call(UnmountImage(placed.name))
    finally:
        vm.close()


def _output(window: tuple[WindowMachine, Placed], name: str, script: str, **how: Any) -> str:
    vm, placed = window
    return output_of(vm, name, ["sh", "-c", script], lower=placed.name, window=True, namespaces=NAMESPACES, **how)


@pytest.mark.parametrize("tmpfs", [False, True], ids=["disk", "tmpfs"])
def test_owners_in_the_window_are_the_pods(window: tuple[WindowMachine, Placed], tmpfs: bool) -> None:
    name = f"owners-{tmpfs}"
    script = "cat /proc/self/uid_map; echo $(ls -nd / /web | tr -s ' ' | cut -d' ' -f1,3,4); touch /x; chown 7 /web"
    script += "; ls -n /web"
    first, owners, changed = _output(window, name, script, tmpfs=tmpfs).splitlines()
    assert first.split() == ["0", str(FIRST), str(IDS)]
    assert owners == "drwxr-xr-x 0 0 -rw-r----- 33 34"
    assert changed.split()[2:4] == ["7", "34"]


def test_capabilities_of_files_in_the_window_count_in_the_pod(window: tuple[WindowMachine, Placed]) -> None:
    text = _output(window, "capable", "/capable/cat /proc/self/status", uid=1000)
    assert f"CapEff:\t{1 << 13:016x}\n" in text


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    vm = Machine(tmp_path)
    yield vm
    vm.close()


def test_the_network_is_the_user_namespaces(machine: Machine) -> None:
    names = ("eth1", "eth0")  # not what the kernel called them
    interfaces = tuple(
        Interface(mac, name, 1400, (f"10.88.{number}.5/24",))
        for number, (mac, name) in enumerate(zip(MACS, names, strict=True))
    )
    machine.client.call(
        Configure(
            hostname="pod",
            first_id=FIRST,
            ids=IDS,
            sysctls=(Sysctl("net.ipv4.conf.eth0.forwarding", "1"), Sysctl("fs.mqueue.msg_max", "77")),
            interfaces=interfaces,
            routes=(Route("0.0.0.0/0", "10.88.1.1", "eth0"),),
        )
    )
    (machine.layers / "image" / "owned").write_text("x")
    script = "hostname; ip -o addr; ip route; cat /proc/sys/net/ipv4/conf/eth0/forwarding /proc/sys/fs/mqueue/msg_max"
    out = machine.run("net", ["sh", "-c", script], namespaces=NAMESPACES)
    assert machine.exit_of("net").exit_code == 0, machine.output
    text = machine.output[out.stdout].decode()
    assert text.startswith("pod\n")
    assert text.endswith("1\n77\n")
    for expected in ("eth1    inet 10.88.0.5/24", "eth0    inet 10.88.1.5/24", "default via 10.88.1.1 dev eth0"):
        assert expected in text, text
    machine.run("server", ["sh", "-c", "echo reached | nc -l -p 8080"], namespaces=NAMESPACES)
    source, sink = machine.streams(2)
    for number in range(1, 50):  # until it listens
        try:
            machine.client.call(Connect(number, 8080, source, sink))
            break
        except PodError:
            time.sleep(0.1)
    machine.pump(lambda: machine.output.get(sink) == b"reached\n")
    stats = machine.client.call(Stats())
    assert stats.pod is not None
    assert sorted(one.name for one in stats.pod.interfaces) == ["eth0", "eth1"]
    machine.client.call(Delete("net"))


@pytest.mark.parametrize("numbers", [(0, 5), (1, 0xFFFFFFFF)])
def test_ids_that_cant_be_are_refused(machine: Machine, numbers: tuple[int, int]) -> None:
    with pytest.raises(BadRequest, match="user namespace"):
        machine.client.call(Configure(hostname="pod", first_id=numbers[0], ids=numbers[1]))


def test_a_device_that_is_not_there_is_named(machine: Machine) -> None:
    with pytest.raises(NotFound, match="02:00:00:00:00:99"):
        machine.client.call(
            Configure(hostname="pod", first_id=FIRST, ids=IDS, interfaces=(Interface("02:00:00:00:00:99", "eth0"),))
        )


def test_capabilities_that_9p_lost_are_the_pods(machine: Machine) -> None:
    machine.client.call(Configure(hostname="pod", first_id=FIRST, ids=IDS))
    (machine.layers / "image.filecaps").write_text(f"{CAP_NET_RAW.hex()} /bin/busybox\n")
    out = machine.run("caps", ["cat", "/proc/self/status"], uid=1000, namespaces=NAMESPACES)
    assert machine.exit_of("caps").exit_code == 0
    assert f"CapEff:\t{1 << 13:016x}\n".encode() in machine.output[out.stdout]
    (machine.layers / "bare").mkdir()
    (machine.layers / "bare.filecaps").write_text("01 /bin/absent\n")
    with pytest.raises(AgentFailed, match="absent"):
        machine.client.call(Create(id="bare", lower="bare"))
