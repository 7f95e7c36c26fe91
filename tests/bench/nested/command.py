# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench boot --lab`: kvmtool, QEMU microvm and the traditional way, in one machine that counts instructions.

Called by boot.py. See docs/dev/benchmarks.md. Exit codes: 0; 1 nothing could be measured, or a VM did not start as
often as asked; 3 without kvmtool, the rest was measured; 4 a promise is broken or a figure is worse than its baseline.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stage1.linux.host import which
from tests.bench.lib import baseline
from tests.bench.nested import files, machine, plan, report
from tests.fakes.builders import BuildFailed
from tests.lab.debian_kernel import debian_kernel, default_cache

NO_LKVM, BROKEN = 3, 4
REPEAT = 5
GATED = ("lkvm_exec_to_init_ms", "lkvm_exits")
"""Up to PID 1 it repeats within 0.3 percent; the agent's part, 2 to 3 ms, varies by one."""
SIZED = ("bzImage", "vmlinux", "initramfs", "system.erofs", "initramfs-systemd", "system-systemd.erofs")


def find_lkvm(paths: list[str]) -> str:
    """kvmtool's program in these directories, those of $CLEARPOD_LAB_PATH, or PATH; empty when there is none.

    Raises BuildFailed when it is a static one, which can't be given the shim.
    """
    places = [*paths, *filter(None, os.environ.get("CLEARPOD_LAB_PATH", "").split(":"))]
    result = shutil.which("lkvm", path=":".join(places)) or "" if places else ""
    result = os.path.realpath(result) if result else which("lkvm")
    if result and files.is_static(result):
        raise BuildFailed(
            f"{result} is statically linked and can't load the shim; build kvmtool with dynamic libraries"
        )
    return result


def measure(guest: Path, lkvm: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures. Raises BuildFailed."""
    if packages := files.missing():
        raise BuildFailed(f"programs are missing; install them with: apt-get install {' '.join(packages)}")
    images = [guest / name for name in ("system.erofs", "system-systemd.erofs", "bzImage")]
    *sizes, kernel = (path.stat().st_size if path.exists() else 0 for path in images)
    kinds = plan.variants(*sizes, kernel_bytes=kernel, with_lkvm=bool(lkvm))
    kinds = [kind for kind in kinds if not args.only or kind.name in args.only]
    repeat = args.repeat or REPEAT
    with_debian = any(kind.is_long for kind in kinds)
    content = machine.world(guest, lkvm, with_debian=with_debian) | plan.files(
        kinds, repeat, args.long_repeat or repeat
    )
    with tempfile.TemporaryDirectory() as directory:
        console, traces = machine.run(content, Path(directory), strings=args.strings)
        if args.keep:
            shutil.copytree(directory, args.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("initramfs"))
    result = report.figures(console, traces) | {"repeat": repeat, "strings_by_the_byte": args.strings}
    expected = {kind.name: args.long_repeat or repeat if kind.is_long else repeat for kind in kinds}
    result["lacking"] = report.lacking(result, expected)
    result |= {f"{name}_bytes": (guest / name).stat().st_size for name in SIZED if (guest / name).exists()}
    return result | {"machine": _machine(), "argv": {kind.name: kind.argv for kind in kinds}}


def _machine() -> dict[str, str]:
    version = subprocess.run([which("qemu-system-x86_64"), "--version"], capture_output=True, text=True).stdout
    kernel = debian_kernel(default_cache()).image.name.removeprefix("vmlinuz-")
    return {"qemu": version.partition("\n")[0], "outer kernel": kernel}


def main(guest: Path, args: argparse.Namespace) -> int:
    """Measure, print, plot; the exit code."""
    try:
        lkvm = find_lkvm(args.path)
        if not lkvm:
            print("bench: there is no lkvm on PATH, in --path or $CLEARPOD_LAB_PATH, so kvmtool is left out;"
                  " docs/dev/testing.md says how to get it", file=sys.stderr)  # fmt: skip
        result = measure(guest, lkvm, args)
    except BuildFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    titles = {kind.name: kind.title for kind in plan.variants(1 << 21, 1 << 21, kernel_bytes=9 << 20, with_lkvm=True)}
    print(json.dumps(result) if args.json else "\n".join(report.lines(result, titles)))
    if args.svg:
        write_plots(Path(args.svg), result, titles)
    if result["lacking"]:
        return 1
    if not lkvm or args.only or args.strings:
        return 0 if lkvm else NO_LKVM
    is_worse = baseline.hold(baseline_key(guest), gated(result), update=args.update_baseline)
    return BROKEN if report.broken(result) or is_worse else 0


def baseline_key(guest: Path) -> str:
    """Beside the guest's kernel, QEMU and the outer kernel decide these figures."""
    return ", ".join(["lab", baseline.key((guest / "vmlinux").read_bytes()), *_machine().values()])


def gated(result: dict[str, Any]) -> dict[str, float]:
    """What the baseline holds: of kvmtool alone, the rest is not ours."""
    return {name: result[name] for name in GATED}


def write_plots(directory: Path, result: dict[str, Any], titles: dict[str, str]) -> None:
    """One plot with all, one without the traditional way, beside which the others are too short to be read."""
    directory.mkdir(parents=True, exist_ok=True)
    date = time.strftime("%Y-%m-%d")
    (directory / "boot-all.svg").write_text(report.plot(result, titles, names=list(titles), date=date))
    short = [name for name in titles if name not in ("q35_debian", "lkvm_systemd")]
    systemd = [name for name in titles if name in ("lkvm", "lkvm_systemd")]
    (directory / "boot-systemd.svg").write_text(report.plot(result, titles, names=systemd, date=date))
    (directory / "boot-small.svg").write_text(report.plot(result, titles, names=short, date=date))
