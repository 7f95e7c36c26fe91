# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel: Debian's linux-source-6.12, nothing switched on but what the fragments here ask for.

Made into `vmlinux` (ELF with a PVH note, stripped: QEMU boots it without decompressing) and `bzImage` (LZ4: what
kvmtool loads). No modules. Takes five to nine minutes on two cores, once per machine and set of inputs.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lib import cache, tools

HERE = Path(__file__).parent
SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")
FRAGMENTS = ("base", "virtio", "storage", "containers", "net")
PROGRAMS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "lz4": "lz4",
    "xz": "xz-utils",
    "strip": "binutils",
}
USUAL_STEPS = 1560
"""Lines that make prints for a whole build; only for the progress line."""


def build(cache_dir: Path) -> Path:
    """The directory with vmlinux, bzImage, config, System.map and release."""
    tools.need(PROGRAMS)
    if not SOURCE.exists():
        raise cache.BuildFailed(f"{SOURCE} is missing; install it with: apt-get install linux-source-6.12")
    key = cache.hash_of([_version(), tools.run(["gcc", "--version"]), *_fragments(), Path(__file__)])
    return cache.built(cache_dir, "kernel", key, _build)


def _version() -> str:
    return tools.package_version("linux-source-6.12") or cache.sha256(SOURCE)


def _fragments() -> list[Path]:
    return [HERE / f"{name}.config" for name in FRAGMENTS]


def _build(out: Path) -> None:
    cache.say(f"building the guest's kernel (minutes, once per machine); log: {out.parent}/build.log")
    work = out / "work"
    work.mkdir()
    tools.run(["tar", "-xf", SOURCE, "-C", work])
    tree = next(work.iterdir())
    _configure(tree)
    _make(tree, out.parent / "build.log")
    shutil.copy(tree / "arch/x86/boot/bzImage", out / "bzImage")
    tools.run(["strip", "-o", out / "vmlinux", tree / "vmlinux"])
    shutil.copy(tree / ".config", out / "config")
    shutil.copy(tree / "System.map", out / "System.map")
    (out / "release").write_text((tree / "include/config/kernel.release").read_text())
    shutil.rmtree(work)


def _environment() -> dict[str, str]:
    """Names, time and language fixed, so that the same inputs give the same bytes."""
    fixed = {"KBUILD_BUILD_TIMESTAMP": "2026-01-01", "KBUILD_BUILD_USER": "clearpod", "KBUILD_BUILD_HOST": "clearpod"}
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "KBUILD_BUILD_VERSION": "1", **fixed}


def _configure(tree: Path) -> None:
    """allnoconfig, which is what tinyconfig starts from, with our lines; every one of them must have been taken."""
    asked = "\n".join(path.read_text() for path in _fragments())
    (tree / "clearpod.config").write_text(asked)
    tools.run(["make", "allnoconfig"], cwd=tree, env=_environment() | {"KCONFIG_ALLCONFIG": "clearpod.config"})
    got = set((tree / ".config").read_text().splitlines())
    ignored = [line for line in asked.splitlines() if line.startswith("CONFIG_") and line not in got]
    if ignored:
        raise cache.BuildFailed(f"Kconfig ignored {', '.join(ignored)}; mend the fragments in images/kernel")


def _make(tree: Path, log: Path) -> None:
    argv = ["make", f"-j{os.cpu_count() or 1}", "bzImage", "vmlinux"]
    with open(log, "w") as sink:
        started = time.monotonic()
        with subprocess.Popen(argv, cwd=tree, env=_environment(), text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as make:  # fmt: skip
            assert make.stdout is not None
            for step, line in enumerate(make.stdout):
                sink.write(line)
                _progress(step, time.monotonic() - started)
    if make.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-tools.TAIL_LINES:])
        raise cache.BuildFailed(f"the kernel did not build:\n{tail}\nthe whole log is {log}")
    _progress_end()


def _progress(step: int, passed_s: float) -> None:
    """One line that is refreshed on a terminal, a line now and then elsewhere."""
    text = f"images: kernel: step {step} of about {USUAL_STEPS}, {passed_s // 60:.0f} min {passed_s % 60:02.0f} s"
    if sys.stderr.isatty():
        print(f"\r{text}  ", end="", file=sys.stderr, flush=True)
    elif step and step % 300 == 0:
        print(text, file=sys.stderr, flush=True)


def _progress_end() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
