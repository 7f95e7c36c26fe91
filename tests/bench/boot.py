# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench boot`: the guest's boot in instructions, beside Debian's own kernel.

QEMU's TCG with `-icount shift=0,sleep=off` makes one guest instruction one nanosecond of guest time, so the figures
repeat within microseconds whatever else the machine does. They say nothing about a processor's real speed, and a sleep
counts in full. Two clocks are reported:

- the kernel's own (CLOCK_MONOTONIC), which starts some hundred microseconds after the kernel's first instruction;
- the TSC, which starts at the machine's reset and so includes the firmware, and for a bzImage the decompression.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from stage1.linux.host import which
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, VmSpec
from tests.lab.debian_kernel import debian_kernel, default_cache

ROOT = Path(__file__).parent.parent.parent
ICOUNT = ("-icount", "shift=0,sleep=off")
MARK = re.compile(rb"clearpod\.mark (\w+) (\d+) (\d+)")
LIMIT_S = 120


class Boot(NamedTuple):
    """One boot, in milliseconds of guest time. `ready_ms` is 0 when the guest got only as far as PID 1."""

    init_ms: float
    init_tsc_ms: float
    ready_ms: float


def guest_dir() -> Path:
    """Where the guest was built."""
    return Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest"))


def clearpod_argv(directory: str) -> list[str]:
    """The product's own command line, with the counter on and the agent told to stop when it is ready."""
    guest = guest_dir()
    vm = VmSpec(
        name="bench",
        binary=which("qemu-system-x86_64"),
        run_dir=directory,
        kernel=str(guest / "vmlinux"),
        initramfs=str(guest / "initramfs"),
        system_image=str(guest / "system.erofs"),
        memory_mib=128,
        vcpus=1,
        link=SerialLink(f"{directory}/agent.sock"),
        words=("clearpod.mark", "clearpod.bench"),
    )
    return [*qemu.argv(vm), *ICOUNT]


def debian_argv(kernel: Path) -> list[str]:
    """Debian's cloud kernel at its defaults on q35, with our agent as its init: it marks PID 1 and gives up."""
    guest = guest_dir()
    line = "console=ttyS0 quiet panic=-1 reboot=t clearpod.link=serial clearpod.system=/dev/vda clearpod.mark"
    return [
        which("qemu-system-x86_64"), *("-M", "q35"), *("-accel", "tcg"), *("-cpu", "max"), *("-m", "128"),
        *("-kernel", str(kernel)), *("-initrd", str(guest / "initramfs")), *("-append", line),
        "-nodefaults", "-no-reboot", *("-display", "none"), *("-serial", "stdio"), *ICOUNT,
    ]  # fmt: skip


def boot(argv: list[str]) -> Boot:
    """Boot once and read the agent's marks from the console."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
    marks = {name.decode(): (int(ns), int(tsc)) for name, ns, tsc in MARK.findall(done.stdout)}
    if "pid1" not in marks:
        tail = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        sys.exit(f"the guest never reached PID 1; its console ends with:\n{tail}")
    init_ns, init_tsc = marks["pid1"]
    ready_ns = marks.get("ready", (init_ns, 0))[0]
    return Boot(init_ns / 1e6, init_tsc / 1e6, (ready_ns - init_ns) / 1e6)


def measure(repeat: int) -> dict[str, Any]:
    """All figures. `*_spread_ms` is the largest minus the smallest of the repeats."""
    with tempfile.TemporaryDirectory() as directory:
        argv = clearpod_argv(directory)
        ours = [boot(argv) for _ in range(repeat)]
    theirs_argv = debian_argv(debian_kernel(default_cache()).image)
    theirs = [boot(theirs_argv) for _ in range(repeat)]
    return {
        **_column("kernel_to_init_ms", [one.init_ms for one in ours]),
        **_column("init_to_ready_ms", [one.ready_ms for one in ours]),
        **_column("reset_to_init_ms", [one.init_tsc_ms for one in ours]),
        **_column("debian_kernel_to_init_ms", [one.init_ms for one in theirs]),
        "repeat": repeat,
        "initramfs_bytes": (guest_dir() / "initramfs").stat().st_size,
        "agent_bytes": (guest_dir() / "agent").stat().st_size,
        "argv": argv,
        "debian_argv": theirs_argv,
    }


def _column(name: str, values: list[float]) -> dict[str, float]:
    spread = name.removesuffix("_ms") + "_spread_ms"
    return {name: round(statistics.median(values), 3), spread: round(max(values) - min(values), 3)}


def main() -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench boot", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="boots of each kind")
    args = parser.parse_args()
    figures = measure(args.repeat)
    if args.json:
        print(json.dumps(figures))
        return
    print("guest time by instruction count (icount), median of", figures["repeat"])
    for name in ("kernel_to_init", "init_to_ready", "reset_to_init", "debian_kernel_to_init"):
        print(f"{name:24} {figures[name + '_ms']:9.3f} ms   spread {figures[name + '_spread_ms']:.3f}")
    print(f"{'initramfs':24} {figures['initramfs_bytes']:9,} bytes\n{'agent':24} {figures['agent_bytes']:9,} bytes")


if __name__ == "__main__":
    main()
