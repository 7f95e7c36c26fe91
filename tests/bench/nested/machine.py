# SPDX-License-Identifier: Apache-2.0
"""The machine around the nested benchmark: QEMU's emulator with AMD's SVM, Debian's kernel, all else in one initramfs.

Called by `scripts/bench boot --lab`. It counts instructions (`-icount`): one is a nanosecond of its clock, for the
virtual machines inside as well. It sees no disk and no network, whose answers take as long as the host likes.
"""

import subprocess
import tempfile
from pathlib import Path

from stage1.linux.host import which
from tests.bench.nested import debian_disk, files, plan
from tests.fakes.builders import BuildFailed, cpio
from tests.lab.debian_kernel import DebianKernel, debian_kernel, default_cache, need_dependencies

MODULES = ("kvm-amd", "vhost_vsock")
GUEST_MODULES = ("virtio_blk",)
CPU = "max,+svm,+npt"
NO_STRINGS = ",-erms,-fsrm"
"""Without them a string instruction counts by the word and not by the byte, which is nearer to a real processor."""
MEMORY_MIB = 3072
LINE = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr norandmaps"
OURS = (
    "bzImage",
    "vmlinux",
    "initramfs",
    "system.erofs",
    "lkvm-shim.so",
    "seccomp-kvmtool.bpf",
    "initramfs-systemd",
    "system-systemd.erofs",
)
LIMIT_S = 3600


def world(guest: Path, lkvm: str, *, with_debian: bool) -> dict[str, bytes]:
    """The files of the outer machine, without the plan; `lkvm` may be empty. Raises BuildFailed."""
    kernel = debian_kernel(default_cache())
    need_dependencies(kernel.modules)
    content = files.closure(which(plan.QEMU.rpartition("/")[2])) | files.firmware()
    if lkvm:
        content |= files.closure(lkvm)
        content[plan.LKVM] = Path(lkvm).read_bytes()
    content |= {f"{plan.GUEST}/{name}": (guest / name).read_bytes() for name in OURS if (guest / name).exists()}
    with tempfile.TemporaryDirectory() as directory:
        content["init"] = files.compiled("machine.c", Path(directory))
        if with_debian:
            content |= _debian(kernel, Path(directory))
    return content | files.modules(kernel.modules, MODULES)


def _debian(kernel: DebianKernel, directory: Path) -> dict[str, bytes]:
    """The traditional guest: kernel, initramfs, disk."""
    first = files.modules(kernel.modules, GUEST_MODULES) | {"init": files.compiled("debian.c", directory)}
    return {
        f"{plan.GUEST}/debian.vmlinuz": kernel.image.read_bytes(),
        f"{plan.GUEST}/debian.initramfs": cpio.archive(files.entries(first)),
        f"{plan.GUEST}/debian.ext4": debian_disk.debian_disk(default_cache()).read_bytes(),
    }


def argv(directory: Path, kernel: Path, *, strings: bool) -> list[str]:
    """QEMU's command line. `strings`: with fast string instructions, counted by the byte."""
    return [
        which("qemu-system-x86_64"), *("-M", "q35"), *("-accel", "tcg"), *("-smp", "1"),
        *("-cpu", CPU if strings else CPU + NO_STRINGS), *("-m", str(MEMORY_MIB)),
        *("-icount", "shift=0,sleep=off"), *("-seed", "1"), *("-rtc", "base=2026-01-01,clock=vm"),
        *("-kernel", str(kernel)), *("-initrd", str(directory / "initramfs")), *("-append", LINE),
        "-nodefaults", "-no-reboot", *("-display", "none"),
        *("-serial", f"file:{directory / 'console'}"), *("-serial", f"file:{directory / 'traces'}"),
    ]  # fmt: skip


def run(content: dict[str, bytes], directory: Path, *, strings: bool = False) -> tuple[str, str]:
    """Boot it; its console and its traces. Raises BuildFailed when it did not come to its end."""
    (directory / "initramfs").write_bytes(cpio.archive(files.entries(content)))
    line = argv(directory, debian_kernel(default_cache()).image, strings=strings)
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    console = (directory / "console").read_text(errors="replace")
    if "bench.end" not in console:
        raise BuildFailed(f"the outer machine did not reach its end; it wrote:\n{console[-3000:]}{done.stderr}")
    return console, (directory / "traces").read_text(errors="replace")
