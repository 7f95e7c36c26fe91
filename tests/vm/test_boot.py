# SPDX-License-Identifier: Apache-2.0
"""The argv of both hypervisors, as a booted guest sees it: order of disks, shares, the link, network, the end."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.linux import mount, process
from stage1.vm import kvmtool, qemu
from stage1.vm.spec import Nic, SerialLink, Share, VmSpec
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE

Boot = Callable[[VmSpec], VmProcess]
pytestmark = pytest.mark.vm
BOOT_S = 60.0 * PATIENCE


def lines_of(vm: VmProcess, until: str) -> list[str]:
    """What the probe said, without its prefix, once `until` is on the console."""
    deadline = time.monotonic() + BOOT_S
    while until not in (text := Path(vm.console).read_text(errors="replace")):
        assert time.monotonic() < deadline, text[-2000:]
        assert vm.alive(), text[-2000:]
        time.sleep(0.05)
    output = [line.partition("probe ") for line in text.splitlines()]
    return [line[2].rstrip() for line in output if line[1]]


def end_of(vm: VmProcess) -> int:
    """The VMM's exit code once it has ended."""
    handle = process.open_process(vm.pid, vm.start_time)
    assert handle is not None
    with handle:
        assert handle.wait(BOOT_S), Path(vm.console).read_text(errors="replace")[-2000:]
        assert handle.exit_code is not None
        return handle.exit_code


@pytest.fixture
def tap() -> Iterator[str]:
    """A tap device of this test."""
    name = f"cptest{os.getpid() % 100000}"
    made = process.run(["ip", "tuntap", "add", "dev", name, "mode", "tap", "user", "0"], timeout_s=10 * PATIENCE)
    if made.code != 0:
        pytest.skip(f"can't make a tap device: {made.stderr.decode()}")
    yield name
    process.run(["ip", "link", "del", name], timeout_s=10 * PATIENCE)


@pytest.fixture
def shares(vm: VmSpec, tmp_path: Path) -> Iterator[tuple[Share, ...]]:
    """Two, each with a file. kvmtool has no option for read-only: as in a pod, the mount is."""
    layers, volumes = tmp_path / "layers", tmp_path / "volumes"
    for place in (layers, volumes):
        place.mkdir()
        (place / "hello").write_text(f"hello-{place.name}")
    if vm.hypervisor is kvmtool.HYPERVISOR:
        mount.bind(str(layers), str(layers), read_only=True)
    yield Share("layers", str(layers), read_only=True), Share("volumes", str(volumes), read_only=False)
    if vm.hypervisor is kvmtool.HYPERVISOR:
        mount.umount(str(layers), lazy=True)


def test_the_guest_finds_every_device_at_the_address_in_the_arguments(
    vm: VmSpec, boot: Boot, shares: tuple[Share, ...], tap: str, tmp_path: Path
) -> None:
    full = vm._replace(
        shares=shares, nics=(Nic(tap, "02:00:00:00:00:2a"),), kernel_arguments=("probe=reboot",), vcpus=2
    )
    running = boot(full)
    assert end_of(running) == 0, "the guest's reboot must end the VMM, in order"
    output = [line.partition("probe ")[2].rstrip() for line in Path(running.console).read_text().splitlines()]
    for expected in (
        "cpus 2",
        "head /dev/vda I-am-the-system!",
        "head /dev/vdb I-am-the-scratch",
        "/sys/block/vda 2048 1",
        "/sys/block/vdb 131072 0",
        "write /dev/vda refused",
        "write /dev/vdb ok",
        "share layers hello-layers read-only",
        "share volumes hello-volumes writable",
        "rng virtio_rng.0",
        "done",
    ):
        assert expected in output
    ports = [line for line in output if line.startswith("/sys/class/virtio-ports/vport")]
    assert ["clearpod.agent" in port for port in ports] == ([True] if isinstance(vm.link, SerialLink) else [])
    assert any(line.startswith("/sys/class/net/eth0 02:00:00:00:00:2a") for line in output)
    assert (tmp_path / "system").read_bytes().count(b"written") == 0
    assert (tmp_path / "scratch").read_bytes().find(b"written-by-guest") == 4096
    assert os.stat(tmp_path / "volumes/from-guest").st_mode & 0o777 == 0o640
    assert not (tmp_path / "layers/from-guest").exists()


def test_a_minimal_guest_has_one_disk_and_an_open_link(vm: VmSpec, boot: Boot) -> None:
    running = boot(vm._replace(scratch=""))
    output = lines_of(running, "probe done")
    assert "/sys/block/vda 2048 1" in output
    assert not any("vdb " in line and line.startswith("/sys/block") for line in output)
    cmdline = next(line for line in output if line.startswith("cmdline"))
    is_serial = isinstance(vm.link, SerialLink)
    assert f"clearpod.link={'serial' if is_serial else 'vsock:1024'} clearpod.system=/dev/vda" in cmdline
    assert len(cmdline) < 2048
    if is_serial:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(f"{vm.run_dir}/agent.sock")
    adopted = VmProcess.from_json(dict(running.to_json()))
    assert adopted.alive()
    assert os.stat(running.console).st_mode & 0o777 == 0o600
    adopted.kill()
    assert not running.alive()


def test_the_kernel_has_sctp(vm: VmSpec, boot: Boot) -> None:
    assert "sctp ok" in lines_of(boot(vm), "probe done")


def test_a_panic_of_the_guest_ends_the_vmm_and_is_on_the_console(vm: VmSpec, boot: Boot) -> None:
    running = boot(vm._replace(kernel_arguments=("probe=panic",)))
    assert running.wait(BOOT_S)
    assert "Kernel panic - not syncing: Attempted to kill init!" in running.console_tail(40)


@pytest.mark.only_on("qemu", "kvmtool writes its kernel's words to its output")
def test_the_kernel_of_a_guest_with_its_console_attached_writes_to_the_log_that_qemu_could_not_open(
    vm: VmSpec, boot: Boot
) -> None:
    running = boot(vm._replace(console_attached=True, kernel_arguments=("probe=panic",)))
    assert running.wait(BOOT_S)
    assert "Kernel panic - not syncing: Attempted to kill init!" in running.console_tail(40)


def test_a_vmm_that_refuses_its_options_fails_at_once_with_its_message(vm: VmSpec) -> None:
    with pytest.raises(VmFailed, match=r"tap no-such-tap/"):
        ProcessVmm(watch_s=BOOT_S).start(vm._replace(nics=(Nic("no-such-tap/", "02:00:00:00:00:01"),)))


def test_the_longest_line_we_allow_arrives_whole(vm: VmSpec, boot: Boot) -> None:
    left = 2048 - 1 - _line_bytes(vm) - len(" x=") - len(" last=word")
    running = boot(vm._replace(kernel_arguments=("x=" + "y" * left, "last=word")))
    assert "last=word" in next(line for line in lines_of(running, "probe done") if line.startswith("cmdline"))


def _line_bytes(vm: VmSpec) -> int:
    """The kernel's line without words of the test, as long as it may get."""
    if vm.hypervisor is kvmtool.HYPERVISOR:
        return len(kvmtool._OWN_ARGUMENTS) + kvmtool._KEPT_BACK_BYTES + len(kvmtool.kernel_command_line(vm))
    devices = qemu.argv(vm).count("-device")
    return len(qemu.kernel_command_line(vm, devices)) + 40 * devices
