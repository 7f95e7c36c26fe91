# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench flavours`: the cost of each variant of the guest's kernel that is built, compared with the ordinary
one.

Kernel entry to PID 1 is counted in instructions, as in `scripts/bench boot`; memory is what is not free in the guest of
an idle pod of 128 MiB; sizes are of the files. Variants that are not built are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from stage1.vm import kernels, qemu
from tests.bench.boot import BOOTS, MEMORY_MIB, ROOT, boot, clearpod_argv, guest_dir, replace

LIMIT_S = 120
MIB = 1 << 20
TITLES = ("kernel", "to PID 1, ms", "to ready, ms", "not free, MiB", "vmlinux, MiB", "bzImage, MiB")


class Row(NamedTuple):
    """One kernel. `kernel_to_init_ms` is of guest time."""

    name: str
    kernel_to_init_ms: float
    init_to_ready_ms: float
    memory_mib: float
    vmlinux_mib: float
    bzimage_mib: float


def row(name: str, repeat: int) -> Row:
    """The least of `repeat` boots."""
    suffix = f"-{name}" if name else ""
    with tempfile.TemporaryDirectory(prefix="flv") as directory:
        argv = replace(clearpod_argv(directory), "-kernel", f"{guest_dir()}/vmlinux{suffix}")
        boots = [boot(argv, directory) for _ in range(repeat)]
        used = used_mib(Path(directory), suffix)
    sizes = [(guest_dir() / f"{file}{suffix}").stat().st_size / MIB for file in ("vmlinux", "bzImage")]
    return Row(name or "default", min(one.init_ms for one in boots), min(one.ready_ms for one in boots), used, *sizes)


def used_mib(directory: Path, suffix: str) -> float:
    """MiB of a VM of 128 that are not free while its container looks."""
    guest = directory / "guest"
    guest.mkdir()
    for file in guest_dir().iterdir():
        (guest / file.name).symlink_to(file.resolve())
    for name, own in (("vmlinux", f"vmlinux{suffix}"), ("system.erofs", f"system{suffix}.erofs")):
        if (guest_dir() / own).exists():
            (guest / name).unlink()
            (guest / name).symlink_to((guest_dir() / own).resolve())
    argv = [
        sys.executable,
        "-m",
        "cri",
        "run",
        "--hypervisor",
        "qemu",
        "--vm-memory",
        f"{MEMORY_MIB}m",
        "--network",
        "none",
    ]
    environment = os.environ | {"CLEARPOD_GUEST_DIR": str(guest)}
    command = [*argv, "--", "grep", "MemFree", "/proc/meminfo"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    return MEMORY_MIB - int(done.stdout.split()[1]) / 1024


def main() -> int:
    """Print a table, or JSON; the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/bench flavours", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--repeat", type=int, default=BOOTS, metavar="N", help="boots of each kernel")
    args = parser.parse_args()
    if not args.json:
        print("".join(f"{title:>15}" for title in TITLES))
    for name in ("", *kernels.variants(str(guest_dir()), hypervisor=qemu.HYPERVISOR)):
        one = row(name, args.repeat)
        if args.json:
            print(json.dumps(one._asdict()))
        else:
            print(f"{one.name:>15}" + "".join(f"{value:15.2f}" for value in one[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
