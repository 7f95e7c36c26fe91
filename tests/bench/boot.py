# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench boot`: the guest's boot in instructions, beside Debian's own kernel.

QEMU's TCG with `-icount shift=0,sleep=off` makes one guest instruction one nanosecond of guest time, so the figures
repeat within microseconds whatever else the machine does. They say nothing about a processor's real speed, a sleep
counts in full, and each byte of a string instruction counts as one. When the guest only waits for its disk, its clock
jumps to its next timer; a busy host can only add to a figure that way, so the least of several boots is given.

Kernel entry is the kernel's first instruction: a stand-in kernel (entry.S) in the same machine tells the time stamp
counter there, which started at reset. The kernel's own clock (CLOCK_MONOTONIC) starts only when it sets its clocks up,
7 ms later (Debian's, which unpacks itself first: 560); it is reported too, but no budget is measured by it.

For Debian's kernel a PID 1 of our own (pid1.c) rides in the same initramfs: the agent can't run without drivers that
Debian has as modules.

With --lab it measures whole virtual machines of kvmtool and QEMU instead, see nested/command.py.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stage1.linux.host import which
from stage1.vm import kernels, profiles, qemu
from stage1.vm.spec import SerialLink, VmSpec
from tests.bench.lib import baseline
from tests.bench.nested import command
from tests.fakes.builders import cpio
from tests.lab.debian_kernel import debian_kernel, default_cache

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ICOUNT = ("-icount", "shift=0,sleep=off")
MARK = re.compile(rb"clearpod\.mark (\w+) (\d+) (\d+)")
ENTERED = re.compile(rb"TSC(.{8})", re.DOTALL)
BARE = ("-nostdlib", "-static", "-Wl,--build-id=none")
PVH_ENTRY = ("-m32", "-DPVH", "-Wl,-Ttext=0x1000000", "-Wl,--section-start=.note.Xen=0x1001000")
REAL_MODE_ENTRY = ("-m32", "-Wl,-Ttext=0", "-Wl,--oformat=binary")
LIMIT_S = 120
SIZED = (
    *("initramfs", "agent", "vmlinux", "bzImage", "system.erofs", "initramfs-systemd", "system-systemd.erofs"),
    *("initramfs-stock", "vmlinux-stock", "bzImage-stock", "system-stock.erofs"),
)
MEMORY_MIB = 128
BOOTS = 3
CLOCK = "tsc_early_khz=1000000"
"""As an emulated pod is told it, and one under KVM by its hypervisor: an instruction is a nanosecond."""
AWAKE = ("idle=poll",)
"""Systemd reads so much of its image that the guest waits for its disk each time. With this word it counts on, which
adds a millisecond or two; without it the clock would jump, by up to seconds."""
SYSTEMD_BOOTS = 5
GATED = ("kernel_to_init_ms", "init_to_ready_ms", "bzimage_kernel_to_init_ms")
"""What the baseline holds; sizes have budgets."""


class Boot(NamedTuple):
    """One boot, in milliseconds of guest time. `ready_ms`, from PID 1, is 0 when no agent ran."""

    firmware_ms: float
    init_ms: float
    clock_ms: float
    ready_ms: float = 0


def guest_dir() -> Path:
    """Where the guest was built."""
    return Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest"))


def has_systemd() -> bool:
    """Whether that profile was built; a machine without Debian's systemd has none."""
    return (guest_dir() / "system-systemd.erofs").exists()


def clearpod_argv(directory: str, profile: str = "", kernel: str = "") -> list[str]:
    """The product's own command line, with the counter on and the agent told to stop when it is ready."""
    guest = guest_dir()
    initramfs, system = profiles.file_names(str(guest), profile, variant=kernel)
    vm = VmSpec(
        name="bench",
        hypervisor=qemu.HYPERVISOR,
        binary=which("qemu-system-x86_64"),
        run_dir=directory,
        kernel=str(guest / "-".join(filter(None, ("vmlinux", kernel)))),
        is_stock=kernel == kernels.STOCK,
        initramfs=str(guest / initramfs),
        system_image=str(guest / system),
        memory_mib=MEMORY_MIB,
        vcpus=1,
        link=SerialLink(f"{directory}/agent.sock"),
        kernel_arguments=(CLOCK, "clearpod.mark", "clearpod.bench", *(AWAKE if profile else ())),
    )
    return [*qemu.argv(vm), *ICOUNT]


def debian_argv(kernel: Path, initramfs: Path, line: str = "console=ttyS0 quiet panic=-1 reboot=t") -> list[str]:
    """Debian's cloud kernel on q35, the usual machine."""
    return [
        which("qemu-system-x86_64"), *("-M", "q35"), *("-accel", "tcg"), *("-cpu", "max"), *("-m", str(MEMORY_MIB)),
        *("-kernel", str(kernel)), *("-initrd", str(initramfs)), *("-append", f"{line} rdinit=/pid1"),
        "-nodefaults", "-no-reboot", *("-display", "none"), *("-serial", "stdio"), *ICOUNT,
    ]  # fmt: skip


def replace(argv: list[str], option: str, value: str) -> list[str]:
    """`argv` with another value behind `option`."""
    at = argv.index(option) + 1
    return [*argv[:at], value, *argv[at + 1 :]]


def console(argv: list[str]) -> bytes:
    """What a machine writes until it ends."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
    return done.stdout + done.stderr


def entry_ms(argv: list[str], directory: str) -> float:
    """Guest time from reset to the first instruction of the kernel, which a stand-in of the same kind takes."""
    elf = Path(argv[argv.index("-kernel") + 1]).read_bytes()[:4] == b"\x7fELF"
    probe = compiled("entry.S", directory, PVH_ENTRY if elf else REAL_MODE_ENTRY)
    output = console(replace(argv, "-kernel", probe))
    if (match := ENTERED.search(output)) is None:
        sys.exit(f"the stand-in kernel was never entered; the machine wrote:\n{tail(output)}")
    return int.from_bytes(match[1], "little") / 1e6


def compiled(source: str, directory: str, options: tuple[str, ...]) -> str:
    """The path of a small freestanding program, made by the compiler that makes the kernel."""
    out = f"{directory}/{source}.out"
    subprocess.run(["gcc", "-Os", *BARE, *options, "-o", out, HERE / source], check=True)
    return out


def boot(argv: list[str], directory: str) -> Boot:
    """Boot once and read the marks from the console."""
    before_ms, output = entry_ms(argv, directory), console(argv)
    marks = {name.decode(): (int(ns), int(tsc)) for name, ns, tsc in MARK.findall(output)}
    if "pid1" not in marks:
        sys.exit(f"the guest never reached PID 1; its console ends with:\n{tail(output)}")
    clock_ns, tsc = marks["pid1"]
    ready_tsc = marks.get("ready", (0, tsc))[1]
    return Boot(before_ms, tsc / 1e6 - before_ms, clock_ns / 1e6, (ready_tsc - tsc) / 1e6)


def tail(output: bytes) -> str:
    """The end of a console, for an error message."""
    return output.decode(errors="replace")[-2000:]


def with_pid1(directory: str) -> Path:
    """Our initramfs with pid1.c beside the agent: one archive behind the other."""
    options = ("-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-s")
    program = Path(compiled("pid1.c", directory, options)).read_bytes()
    out = Path(directory) / "initramfs"
    more = cpio.archive([cpio.Entry("pid1", cpio.S_FILE | 0o755, program)])
    out.write_bytes((guest_dir() / "initramfs").read_bytes() + more)
    return out


def measure(repeat: int) -> dict[str, Any]:
    """All figures: the least of the repeats; `*_spread_ms` is how much more the largest was."""
    figures: dict[str, Any] = {"repeat": repeat, "unit": "milliseconds of guest time, one instruction a nanosecond"}
    with tempfile.TemporaryDirectory() as directory:
        ours = clearpod_argv(directory)
        packed = replace(ours, "-kernel", str(guest_dir() / "bzImage"))
        debian, pid1 = debian_kernel(default_cache()).image, with_pid1(directory)
        theirs = debian_argv(debian, pid1)
        tuned = debian_argv(debian, pid1, ours[ours.index("-append") + 1])
        kinds = {"": ours, "bzimage_": packed, "debian_": theirs, "debian_tuned_": tuned}
        if has_systemd():
            kinds["systemd_"] = clearpod_argv(directory, "systemd")
        if (guest_dir() / "vmlinux-stock").exists():
            kinds["stock_"] = clearpod_argv(directory, kernel=kernels.STOCK)
        for prefix, argv in kinds.items():
            times = max(repeat, SYSTEMD_BOOTS) if prefix == "systemd_" else repeat
            figures |= columns(prefix, [boot(argv, directory) for _ in range(times)])
            figures[f"{prefix}argv"] = argv
    sizes = {f"{name}_bytes": (guest_dir() / name).stat().st_size for name in SIZED if (guest_dir() / name).exists()}
    return figures | sizes | {"machine": machine(), "debian_kernel": debian.name.removeprefix("vmlinuz-")}


def columns(prefix: str, boots: list[Boot]) -> dict[str, float]:
    """The least values and the spreads of one kind of boot."""

    def column(name: str, value: Callable[[Boot], float]) -> dict[str, float]:
        values = [value(one) for one in boots]
        spread = round(max(values) - min(values), 3)
        return {f"{prefix}{name}_ms": round(min(values), 3), f"{prefix}{name}_spread_ms": spread}

    ready = column("init_to_ready", lambda one: one.ready_ms) if boots[0].ready_ms else {}
    return (
        column("kernel_to_init", lambda one: one.init_ms)
        | ready
        | column("kernel_clock_to_init", lambda one: one.clock_ms)
        | column("reset_to_kernel", lambda one: one.firmware_ms)
    )


def machine() -> dict[str, str]:
    """Where this was measured; by icount it should not matter, save for QEMU's version."""
    version = subprocess.run([which("qemu-system-x86_64"), "--version"], capture_output=True, text=True).stdout
    return {"qemu": version.partition("\n")[0], "host": platform.platform(), "cpus": str(os.cpu_count())}


def show(figures: dict[str, Any]) -> None:
    """The figures for people."""
    print(f"guest time by instruction count, {MEMORY_MIB} MiB, 1 CPU, least of {figures['repeat']} (spread)")
    for name in [name.removesuffix("_spread_ms") for name in figures if name.endswith("_spread_ms")]:
        print(f"{name:36} {figures[name + '_ms']:9.3f} ms   ({figures[name + '_spread_ms']:.3f})")
    for name in SIZED:
        if f"{name}_bytes" in figures:
            print(f"{name:36} {figures[name + '_bytes']:12,} bytes")
    print("systemd: the profile of that name, our kernel and initramfs; PID 1 is the same program, and becomes systemd")
    print("stock: Debian's kernel as pods have it, with our initramfs and its modules")
    print(f"debian is {figures['debian_kernel']} on q35; tuned: with our kernel command line")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench boot", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="boots of each kind (3, with --lab 5)")
    parser.add_argument("--update-baseline", action="store_true", help="commit to these figures")
    lab = parser.add_argument_group("whole virtual machines, in a nested one")
    lab.add_argument("--lab", action="store_true", help="kvmtool, QEMU microvm and q35 with Debian; takes minutes")
    lab.add_argument("--path", action="append", default=[], metavar="DIR", help="where lkvm is")
    lab.add_argument("--svg", metavar="DIR", help="write plots there")
    lab.add_argument("--strings", action="store_true", help="count string instructions by the byte")
    lab.add_argument("--long-repeat", type=int, default=0, metavar="N", help="boots of Debian (as --repeat)")
    lab.add_argument("--only", action="append", default=[], metavar="VARIANT", help="leave the other variants out")
    lab.add_argument("--keep", metavar="DIR", help="keep console and traces there")
    return parser.parse_args()


def main() -> int:
    """Print the figures, for people or as JSON; the exit code."""
    args = arguments()
    if args.lab:
        return command.main(guest_dir(), args)
    figures = measure(args.repeat or BOOTS)
    if args.json:
        print(json.dumps(figures))
    else:
        show(figures)
    name = baseline.key((guest_dir() / "vmlinux").read_bytes())
    return baseline.hold(name, {figure: figures[figure] for figure in GATED}, update=args.update_baseline)


if __name__ == "__main__":
    sys.exit(main())
