# SPDX-License-Identifier: Apache-2.0
"""Which kernels a node boots, and what the end of its VMM means for a container."""

import os
import struct
from pathlib import Path

import pytest

from stage1 import own
from stage1.engine import Host
from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.pod.model import Pod
from stage1.pod.own_kernel import OwnKernel
from stage1.vm import kvmtool, qemu
from stage1.vm.choose import Choice
from stage1.vm.spec import Hypervisor, Nic

MULTIBOOT = struct.pack("<III", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)) & 0xFFFFFFFF)
BZIMAGE = bytearray(1024)
BZIMAGE[0x1F1], BZIMAGE[0x1FE:0x200], BZIMAGE[0x202:0x206], BZIMAGE[0x211] = 1, b"\x55\xaa", b"HdrS", 1


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """The pod's directory, with an image of three kernels."""
    place = tmp_path / "share" / "layers" / "i"
    place.mkdir(parents=True)
    (place / "multiboot").write_bytes(MULTIBOOT)
    (place / "bzImage").write_bytes(BZIMAGE)
    (place / "large").write_bytes(BZIMAGE)
    os.truncate(place / "large", 40 << 20)
    (place / "link").symlink_to("/bzImage")
    (place / "high").write_bytes(MULTIBOOT + struct.pack("<IIII", 0, 0, 0, 65 << 20))
    (place / "beyond").write_bytes(MULTIBOOT + struct.pack("<IIIII", 3 << 30, 3 << 30, 0, 0, 3 << 30))
    (place / "a,b").write_bytes(BZIMAGE)
    (place / "comma").symlink_to("/a,b")
    (place / "qcow2").write_bytes(b"QFI\xfb" + bytes(100))
    (place / "vdi").write_bytes(bytes(0x40) + b"\x7f\x10\xda\xbe" + bytes(100))
    (place / "circle").symlink_to("/circle")
    (place / "out").symlink_to("/../../../../etc/hostname")
    os.mkfifo(place / "fifo")
    os.mkdir(place / "etc")
    return tmp_path


def _find(directory: Path, kernel: OwnKernel, hypervisor: Hypervisor = qemu.HYPERVISOR) -> own.BootFiles:
    host = Host("/run/c", "/g", "/s", Choice(hypervisor, "tcg", "/bin/true", "", ()), scratch_mib=16)
    return own.find(str(directory), Pod("p", "p", memory_mib=64), host=host, boot=own.Boot(kernel, "i"))


def test_a_kernel_is_opened_through_links_that_stay_in_the_image(layers: Path) -> None:
    boot_files = _find(layers, OwnKernel("/link", machine="q35"))
    assert boot_files == own.BootFiles(f"{layers}/share/layers/i/bzImage")


@pytest.mark.parametrize(
    ("kernel", "hypervisor", "error", "noun"),
    [
        (OwnKernel("/multiboot", machine="microvm"), qemu.HYPERVISOR, BadRequest, "multiboot"),
        (OwnKernel("/multiboot", machine="q35"), kvmtool.HYPERVISOR, Unsupported, "multiboot"),
        (OwnKernel("/bzImage", machine="microvm"), kvmtool.HYPERVISOR, Unsupported, "bzImage"),
        (OwnKernel("/large", machine="q35"), qemu.HYPERVISOR, BadRequest, "memory"),
        (OwnKernel("/high", machine="q35"), qemu.HYPERVISOR, BadRequest, "0x4100000"),
        (OwnKernel("/beyond", machine="q35"), qemu.HYPERVISOR, BadRequest, "devices"),
        (OwnKernel("/bzImage", machine="q35", block="/qcow2"), qemu.HYPERVISOR, BadRequest, "qcow2"),
        (OwnKernel("/bzImage", machine="q35", initrd="/comma"), qemu.HYPERVISOR, BadRequest, "comma"),
        (OwnKernel("/comma", machine="q35"), qemu.HYPERVISOR, BadRequest, "comma"),
        (OwnKernel("/bzImage", machine="q35", block="/large"), qemu.HYPERVISOR, BadRequest, "block"),
        (OwnKernel("/bzImage", machine="q35", block="/vdi"), qemu.HYPERVISOR, BadRequest, "VDI"),
        (OwnKernel("/circle", machine="q35"), qemu.HYPERVISOR, NotFound, "circle"),
        (OwnKernel("/out", machine="q35"), qemu.HYPERVISOR, NotFound, "no such file"),
        (OwnKernel("/fifo", machine="q35"), qemu.HYPERVISOR, BadRequest, "regular file"),
        (OwnKernel("/etc", machine="q35"), qemu.HYPERVISOR, BadRequest, "directory"),
        (OwnKernel("/bzImage/", machine="q35"), qemu.HYPERVISOR, NotFound, "no directory"),
        (OwnKernel("/bzImage", initrd="/bzImage/x", machine="q35"), qemu.HYPERVISOR, NotFound, "initrd"),
        (OwnKernel("/" + "k" * 300, machine="q35"), qemu.HYPERVISOR, NotFound, "too long"),
    ],
)
def test_what_can_not_be_booted_here_is_refused(
    layers: Path, kernel: OwnKernel, hypervisor: Hypervisor, error: type[PodError], noun: str
) -> None:
    with pytest.raises(error, match=noun):
        _find(layers, kernel, hypervisor)


@pytest.mark.parametrize(
    ("ending", "status", "reason", "code"),
    [
        ("poweroff", 0, "guest-shutdown", 0),
        ("poweroff", 0, "", 0),
        ("poweroff", 1, "", 1),
        ("poweroff", 0, "guest-reset", 133),
        ("poweroff", 0, "guest-panic", 134),
        ("poweroff", None, "guest-shutdown", 0),
        ("poweroff", None, "guest-reset", 133),
        ("poweroff", None, "", None),
        ("reset", 0, "guest-reset", 0),
        ("reset", 0, "guest-panic", 134),
        ("reset", None, "guest-reset", 0),
        ("debug-exit", 15, "guest-shutdown", 7),
        ("debug-exit", 0, "guest-shutdown", 0),
        ("debug-exit", 0, "guest-reset", 133),
        ("debug-exit", None, "guest-shutdown", None),
        ("solo5", 83, "guest-shutdown", 0),
        ("solo5", 85, "guest-shutdown", 42),
        ("solo5", 3, "guest-shutdown", 1),
        ("hermit", 3, "guest-shutdown", 0),
        ("hermit", 1, "guest-shutdown", 1),
        ("hermit", 15, "guest-shutdown", 7),
    ],
)
def test_the_containers_code_is_that_of_the_kernel(ending: str, status: int | None, reason: str, code: int) -> None:
    kernel = OwnKernel("/k", exit=ending, machine="q35")
    assert own.exit_code(kernel, status, reason=reason, has_power_off=True) == code


@pytest.mark.parametrize(
    ("kernel", "hypervisor", "code"),
    [
        (OwnKernel("/k", machine="q35"), qemu.HYPERVISOR, 133),
        (OwnKernel("/k", machine="microvm-pci"), qemu.HYPERVISOR, 133),
        (OwnKernel("/k", machine="microvm"), qemu.HYPERVISOR, 0),
        (OwnKernel("/k", machine="q35"), kvmtool.HYPERVISOR, 0),
        (OwnKernel("/k", machine="microvm", exit="debug-exit"), qemu.HYPERVISOR, 133),
    ],
)
def test_a_reset_is_a_graceful_end_where_the_machine_can_not_power_off(
    kernel: OwnKernel, hypervisor: Hypervisor, code: int
) -> None:
    has_power_off = own.has_power_off(kernel, hypervisor)
    assert own.exit_code(kernel, 0, reason="guest-reset", has_power_off=has_power_off) == code


def test_a_kernel_gets_the_pods_network_devices_unless_its_value_is_absent() -> None:
    nics = (Nic("tap0", "m"),)
    assert own.devices(OwnKernel("/k"), nics) == nics
    assert own.devices(OwnKernel("/k", network="absent"), nics) == ()
