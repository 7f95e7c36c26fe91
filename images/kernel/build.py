# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel: Debian's linux-source-6.12, nothing switched on but what the fragments here ask for.

Made into `vmlinux` (ELF with a PVH note, stripped: what QEMU boots) and `bzImage` (what kvmtool loads; not compressed
in spite of its name, see lib/bzimage.py). No modules. Takes minutes, once per machine and set of inputs;
docs/dev/guest.md says where they go.
"""

import os
import shutil
import subprocess
from pathlib import Path

from lib import bzimage, cache, changes, kconfig, tools
from lib.progress import Progress

HERE = Path(__file__).parent
SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")
FRAGMENTS = ("base", "virtio", "storage", "containers", "net")
CHANGES = HERE / "changes.toml"
KIND = "kernel"
HEADER, WRITER = HERE / "header.S", Path(bzimage.__file__)
STUB = ("-m32", "-nostdlib", "-static", "-Wl,--build-id=none,-Ttext=0x100000,--oformat=binary")
PROGRAMS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "lz4": "lz4",
    "xz": "xz-utils",
    "perl": "perl",
    "strip": "binutils",
}
HEADERS = {"/usr/include/libelf.h": "libelf-dev"}
OBJECTS = 1275
"""Of a whole build; only for the progress line."""
DRIVERS = ("gpu", "media", "infiniband", "staging", "scsi", "usb", "net/ethernet", "net/wireless")
NOT_COMPILED = [
    *("*/Documentation/*.rst", "*/Documentation/*.yaml", "*/tools/testing/*", "*/tools/perf/*", "*/sound/*.[ch]"),
    *("*/arch/[!x]*/*.[chS]", "*/arch/*.dts*"),
    *(f"*/drivers/{name}/*.[ch]" for name in DRIVERS),
]
"""What is left in the archive, two thirds of it. The Kconfig files of all directories are read, and so not among it."""
OBJECT_LINES = ("  CC  ", "  AS  ")


def build(cache_dir: Path) -> Path:
    """The directory with vmlinux, bzImage, config, System.map, release and what was skipped of changes.toml."""
    tools.need(PROGRAMS, HEADERS | {str(SOURCE): "linux-source-6.12"})
    return cache.built(cache_dir, KIND, _key(), _build)


def is_built(cache_dir: Path) -> bool:
    """Whether the kernel is in the cache, made from what is here now. False where it can't be built either."""
    if not SOURCE.exists() or not all(map(shutil.which, ("gcc", "ld"))):
        return False
    return (cache_dir / KIND / _key()).is_dir()


def _key() -> str:
    compiler = [tools.run([name, "--version"]) for name in ("gcc", "ld")]
    return cache.hash_of([_version(), *compiler, *_fragments(), CHANGES, HEADER, WRITER, Path(__file__)])


def _version() -> str:
    return tools.package_version("linux-source-6.12") or cache.sha256(SOURCE)


def _fragments() -> list[Path]:
    return [HERE / f"{name}.config" for name in FRAGMENTS]


def _asked() -> dict[str, str]:
    """Name to value. No fragment may contradict another. Raises BuildFailed."""
    try:
        return kconfig.asked(path.read_text() for path in _fragments())
    except kconfig.Fault as fault:
        raise cache.BuildFailed(f"{fault}; mend them in images/kernel") from fault


def _build(out: Path) -> None:
    work, log = out / "work", out.with_suffix(".log")
    work.mkdir()
    tools.run(["tar", "-xf", SOURCE, "-C", work, *(f"--exclude={name}" for name in NOT_COMPILED)])
    tree = next(work.iterdir())
    skipped = changes.apply(tree, changes.read(CHANGES))
    for one in skipped:
        cache.say(f"kernel: skipped a change that only saves time or memory: {one}")
    (out / "skipped").write_text("".join(f"{one}\n" for one in skipped))
    cache.say(f"building the guest's kernel (minutes, once per machine); log: {log}")
    log.unlink(missing_ok=True)
    _configure(tree, _asked())
    _make(tree, log)
    _keep(tree, out)
    shutil.rmtree(work)


def _keep(tree: Path, out: Path) -> None:
    tools.run(["strip", "-o", out / "vmlinux", tree / "vmlinux"])
    _write_bzimage(tree, out)
    shutil.copy(tree / "System.map", out)
    shutil.copy(tree / ".config", out / "config")
    shutil.copy(tree / "include/config/kernel.release", out / "release")


def _write_bzimage(tree: Path, out: Path) -> None:
    """The bzImage: the real mode part of the one that was built, in front of the kernel as it lies in memory."""
    stub = tree / "header.bin"
    kernel = bzimage.parse((out / "vmlinux").read_bytes())
    tools.run(["gcc", *STUB, f"-DENTRY={kernel.entry:#x}", "-o", stub, HEADER])
    packed = (tree / "arch/x86/boot/bzImage").read_bytes()
    (out / "bzImage").write_bytes(bzimage.image(packed, stub.read_bytes(), kernel))


def _environment() -> dict[str, str]:
    """Names, time and language fixed, so that the same inputs give the same bytes."""
    fixed = {"KBUILD_BUILD_TIMESTAMP": "2026-01-01", "KBUILD_BUILD_USER": "clearpod", "KBUILD_BUILD_HOST": "clearpod"}
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "KBUILD_BUILD_VERSION": "1", **fixed}


def _configure(tree: Path, wanted: dict[str, str]) -> None:
    """allnoconfig, which is what tinyconfig starts from, with our lines; every one of them must have been taken."""
    (tree / "clearpod.config").write_text(kconfig.render(wanted))
    tools.run(["make", "allnoconfig"], cwd=tree, env=_environment() | {"KCONFIG_ALLCONFIG": "clearpod.config"})
    if refused := kconfig.refused(wanted, (tree / ".config").read_text()):
        lines = ", ".join(str(one) for one in refused)
        raise cache.BuildFailed(f"Kconfig did not take {lines}; mend the fragments in images/kernel")


def _make(tree: Path, log: Path) -> None:
    argv = ["make", f"-j{len(os.sched_getaffinity(0))}", "bzImage", "vmlinux"]
    with (
        open(log, "a") as sink,
        Progress(KIND, OBJECTS) as progress,
        subprocess.Popen(argv, cwd=tree, env=_environment(), text=True, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as make,
    ):  # fmt: skip
        assert make.stdout is not None
        for line in make.stdout:
            sink.write(line)
            if line.startswith(OBJECT_LINES):
                progress.step()
        if make.wait() == 0:
            progress.end()
    if make.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-tools.TAIL_LINES :])
        raise cache.BuildFailed(f"the kernel did not build; its log {log} ends with:\n{tail}")
