# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel: Debian's linux-source-6.12, nothing switched on but what the fragments here ask for.

Made into `vmlinux` (ELF with a PVH note, stripped: what QEMU boots) and `bzImage` (what kvmtool loads; not compressed
in spite of its name, see lib/bzimage.py). No modules. Takes five to nine minutes on two cores, once per machine and set
of inputs. Each variant is made after it in the same tree, where only what its one more fragment changes is compiled.
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
VARIANTS = ("sctp",)
"""Each the fragment of that name beside the others; its files are called vmlinux-NAME and so on."""
CHANGES = HERE / "changes.toml"
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
USUAL_OBJECTS = 1300
"""Objects of a whole build; only for the progress line."""
OBJECT_LINES = ("  CC  ", "  AS  ")


def build(cache_dir: Path) -> Path:
    """The directory with vmlinux, bzImage, config and System.map, of each variant too, and release."""
    tools.need(PROGRAMS, HEADERS | {str(SOURCE): "linux-source-6.12"})
    compiler = [tools.run([name, "--version"]) for name in ("gcc", "ld")]
    key = cache.hash_of([_version(), *compiler, *_fragments(*VARIANTS), CHANGES, HEADER, WRITER, Path(__file__)])
    return cache.built(cache_dir, "kernel", key, _build)


def _version() -> str:
    return tools.package_version("linux-source-6.12") or cache.sha256(SOURCE)


def _fragments(*variants: str) -> list[Path]:
    return [HERE / f"{name}.config" for name in (*FRAGMENTS, *variants)]


def _build(out: Path) -> None:
    log = out.with_suffix(".log")
    cache.say(f"building the guest's kernel (minutes, once per machine); log: {log}")
    log.unlink(missing_ok=True)
    work = out / "work"
    work.mkdir()
    tools.run(["tar", "-xf", SOURCE, "-C", work])
    tree = next(work.iterdir())
    changes.apply(tree, changes.read(CHANGES))
    _configure(tree, _fragments())
    _make(tree, log)
    _keep(tree, out)
    for name in VARIANTS:
        _configure(tree, _fragments(name))
        _make(tree, log)
        _keep(tree, out, suffix=f"-{name}")
    shutil.rmtree(work)


def _keep(tree: Path, out: Path, *, suffix: str = "") -> None:
    tools.run(["strip", "-o", out / f"vmlinux{suffix}", tree / "vmlinux"])
    _write_bzimage(tree, out, suffix=suffix)
    shutil.copy(tree / "System.map", out / f"System.map{suffix}")
    shutil.copy(tree / ".config", out / f"config{suffix}")
    (out / "release").write_text((tree / "include/config/kernel.release").read_text())


def _write_bzimage(tree: Path, out: Path, *, suffix: str) -> None:
    """The bzImage: the real mode part of the one that was built, in front of the kernel as it lies in memory."""
    stub = out / "work" / "header.bin"
    kernel = bzimage.parse((out / f"vmlinux{suffix}").read_bytes())
    tools.run(["gcc", *STUB, f"-DENTRY={kernel.entry:#x}", "-o", stub, HEADER])
    packed = (tree / "arch/x86/boot/bzImage").read_bytes()
    (out / f"bzImage{suffix}").write_bytes(bzimage.image(packed, stub.read_bytes(), kernel))


def _environment() -> dict[str, str]:
    """Names, time and language fixed, so that the same inputs give the same bytes."""
    fixed = {"KBUILD_BUILD_TIMESTAMP": "2026-01-01", "KBUILD_BUILD_USER": "clearpod", "KBUILD_BUILD_HOST": "clearpod"}
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "KBUILD_BUILD_VERSION": "1", **fixed}


def _configure(tree: Path, fragments: list[Path]) -> None:
    """allnoconfig, which is what tinyconfig starts from, with our lines; every one of them must have been taken."""
    try:
        wanted = kconfig.asked(path.read_text() for path in fragments)
    except kconfig.Fault as fault:
        raise cache.BuildFailed(f"{fault}; mend them in images/kernel") from fault
    (tree / "clearpod.config").write_text(kconfig.render(wanted))
    tools.run(["make", "allnoconfig"], cwd=tree, env=_environment() | {"KCONFIG_ALLCONFIG": "clearpod.config"})
    if refused := kconfig.refused(wanted, (tree / ".config").read_text()):
        lines = ", ".join(str(one) for one in refused)
        raise cache.BuildFailed(f"Kconfig did not take {lines}; mend the fragments in images/kernel")


def _make(tree: Path, log: Path) -> None:
    argv = ["make", f"-j{len(os.sched_getaffinity(0))}", "bzImage", "vmlinux"]
    with (
        open(log, "a") as sink,
        Progress("kernel", USUAL_OBJECTS) as progress,
        subprocess.Popen(argv, cwd=tree, env=_environment(), text=True, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as make,
    ):  # fmt: skip
        assert make.stdout is not None
        for line in make.stdout:
            sink.write(line)
            if line.startswith(OBJECT_LINES):
                progress.step()
    if make.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-tools.TAIL_LINES :])
        raise cache.BuildFailed(f"the kernel did not build; its log {log} ends with:\n{tail}")
