# SPDX-License-Identifier: Apache-2.0
"""Guests of many sizes come up with their system image in memory, as under kvmtool, on an emulated PC.

Its clock counts instructions, so a guest that fails does so each time. The same sizes with a real kvmtool are in
tests/bench/test_nested_sizes.py, and what the agent waits for in tests/unit/agent/check_device.c.
"""

import re
import subprocess
from pathlib import Path

import pytest

from stage1.linux.host import which
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, VmSpec
from tests.fakes.patience import PATIENCE

pytestmark = pytest.mark.vm

MIB = 1 << 20
BOOT_S = 120 * PATIENCE
ICOUNT = ("-icount", "shift=0,sleep=off")
CLOCK = "tsc_early_khz=1000000"
OTHER = {"microvm,acpi=off": "q35,acpi=off", "pci=off": "pci=conf1", "=/dev/vda": "=/dev/pmem0"}
"""Words of the command line: the guest's kernel makes no persistent memory without PCI."""
WORDS = re.compile("|".join(map(re.escape, OTHER)) + r"|^virtio-(\w+)-device\b")
ABOVE_MIB, LOW_MIB, DISK_WORDS = 12, 2048, 4
"""Left to the initramfs and to page structures at the end of the memory; what q35 has below 4 GiB of a large one."""


def argv_of(guest: Path, memory_mib: int, place: Path, *, vcpus: int, image_mib: int) -> list[str]:
    """The product's command line, but with the system image in `image_mib` of the guest's memory and on no disk.

    While the kernel waits for a disk, it would find the memory.
    """
    image = guest / "system.erofs"
    address = ((min(memory_mib, LOW_MIB) - ABOVE_MIB) // 2 * 2 - image_mib) * MIB
    vm = VmSpec(
        name="sizes",
        hypervisor=qemu.HYPERVISOR,
        binary=which("qemu-system-x86_64"),
        run_dir=str(place),
        kernel=str(guest / "vmlinux"),
        initramfs=str(guest / "initramfs"),
        system_image=str(image),
        memory_mib=memory_mib,
        vcpus=vcpus,
        link=SerialLink(f"{place}/agent.sock"),
        kernel_arguments=(CLOCK, "clearpod.mark", "clearpod.bench", f"memmap={image_mib}M!{address:#x}"),
    )
    argv = [WORDS.sub(lambda match: OTHER.get(match[0], f"virtio-{match[1]}-pci"), word) for word in qemu.argv(vm)]
    disk = argv.index("-drive")
    del argv[disk : disk + DISK_WORDS]
    return [*argv, *ICOUNT, "-device", f"loader,file={image},addr={address:#x},force-raw=on"]


@pytest.mark.parametrize(
    ("memory_mib", "vcpus", "image_mib"),
    [(48, 1, 4), (128, 1, 4), (333, 1, 24), (384, 1, 4), (500, 2, 4), (512, 1, 256), (1024, 4, 640), (4096, 1, 4)],
)
def test_the_agent_is_ready_whatever_the_size(
    guest_dir: Path, tmp_path: Path, memory_mib: int, vcpus: int, image_mib: int
) -> None:
    argv = argv_of(guest_dir, memory_mib, tmp_path, vcpus=vcpus, image_mib=image_mib)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOOT_S)
    assert "clearpod.mark ready" in done.stdout, done.stdout[-2000:] + done.stderr
