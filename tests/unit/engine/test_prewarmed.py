# SPDX-License-Identifier: Apache-2.0
"""What is made before a pod is asked for, what is left for later, and that `clean_up` removes both. Needs root."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1 import engine, prewarmed
from stage1.errors import VmFailed
from stage1.linux import mount, namespace
from stage1.net import pool_slot
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from stage1.vm import qemu
from stage1.vm.choose import Choice
from stage1.vm.spec import Nic
from tests.fakes.cni import FakeCni

QEMU = Choice(hypervisor=qemu.HYPERVISOR, accel="tcg", binary="/usr/bin/qemu-system-x86_64", warning="", reasons=())


@pytest.fixture
def cni(tmp_path: Path) -> FakeCni:
    made = FakeCni(tmp_path / "cni")
    made.make_one_device()
    return made


@pytest.fixture
def host(tmp_path: Path, cni: FakeCni) -> Iterator[engine.Host]:
    guest = tmp_path / "guest"
    guest.mkdir()
    for name in ("vmlinux", "initramfs", "system.erofs"):
        (guest / name).write_bytes(b"x")
    with tempfile.TemporaryDirectory() as run_dir:
        made = engine.Host(run_dir, str(guest), f"{tmp_path}/state", QEMU, scratch_mib=16, network=cni.settings)
        yield made
        for directory in engine.pod_directories(made):
            engine.clean_up(directory)


def anonymous() -> Pod:
    return Pod(os.urandom(32).hex(), "waits")


def is_gone(host: engine.Host, cni: FakeCni, pod: Pod) -> bool:
    here = [*engine.pod_directories(host), *mount.mounts_below(host.run_dir), *cni.left_over()]
    return here == [] and not os.path.exists(netns_path(pod.id)) and os.listdir(f"{host.state_dir}/scratch") == []


def test_a_vm_waits_on_a_tap_and_becomes_the_pod(host: engine.Host, cni: FakeCni) -> None:
    waits = anonymous()
    prepared = prewarmed.prepare(waits, host)
    assert prepared.vm.nics == (Nic(pool_slot.TAP, pool_slot.MAC),) and prepared.vm.netns == netns_path(waits.id)
    assert cni.calls() == [] and engine.network(prepared.directory) is None
    pod = waits._replace(name="web", hostname="web-0")
    woken: list[list[str]] = []
    network = prewarmed.claim(pod, host, wake=lambda: woken.append(cni.calls()))
    assert woken == [["ADD first", "ADD second"]]
    assert engine.network(prepared.directory) is None
    prewarmed.record(pod, host, network=network)
    assert network is not None and network.ips == ("10.9.0.5", "fd09::5")
    assert engine.network(prepared.directory) == network
    where = Path(prepared.directory, "share/volumes/pod")
    assert "10.9.0.5\tweb-0" in (where / "hosts").read_text() and (where / "hostname").read_text() == "web-0\n"
    assert (where / "machine-id").read_text() == f"{pod.id[:32]}\n"
    assert engine.clean_up(prepared.directory) == "" and is_gone(host, cni, pod)
    assert cni.calls() == ["DEL second", "DEL first"]


def test_a_vm_that_waits_goes_without_a_plugin(host: engine.Host, cni: FakeCni) -> None:
    waits = anonymous()
    directory = prewarmed.prepare(waits, host).directory
    assert engine.clean_up(directory) == engine.clean_up(directory) == ""
    assert is_gone(host, cni, waits) and cni.calls() == []


@pytest.mark.parametrize("somebody", [namespace.remove_net, lambda path: mount.umount(path, lazy=True)])
def test_a_netns_that_is_gone_is_not_replaced(host: engine.Host, cni: FakeCni, somebody: object) -> None:
    waits = anonymous()
    directory = prewarmed.prepare(waits, host).directory
    assert callable(somebody)
    somebody(netns_path(waits.id))
    with pytest.raises(VmFailed, match="network namespace"):
        prewarmed.claim(waits, host)
    engine.clean_up(directory)
    assert is_gone(host, cni, waits) and cni.calls() == []


def test_when_the_configuration_is_gone_the_pod_has_no_network(host: engine.Host, cni: FakeCni) -> None:
    waits = anonymous()
    directory = prewarmed.prepare(waits, host).directory
    (cni.root / "net.d" / "10.conflist").unlink()
    assert prewarmed.claim(waits, host) is None and engine.network(directory) is None
    engine.clean_up(directory)
    assert is_gone(host, cni, waits)


def test_without_networks_the_vm_has_no_device(host: engine.Host, cni: FakeCni) -> None:
    host, waits = host._replace(network=None), anonymous()
    prepared = prewarmed.prepare(waits, host)
    assert prepared.vm.nics == () and not os.path.exists(netns_path(waits.id))
    assert prewarmed.claim(waits, host) is None
    engine.clean_up(prepared.directory)
    assert is_gone(host, cni, waits)
