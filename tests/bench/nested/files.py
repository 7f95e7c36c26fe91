# SPDX-License-Identifier: Apache-2.0
"""What goes into the nested machine's initramfs: programs with their libraries, modules, our own
first programs.

Called by machine.py. Writes only below the directories it is given; nothing of it runs on the host but compilers.
"""

import lzma
import subprocess
from pathlib import Path

from stage1.linux.host import which
from tests.fakes.builders import cpio
from tests.lab import plan
from tests.lab.debian_kernel import run

HERE = Path(__file__).parent
COMPILE = ("musl-gcc", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-Os", "-static", "-s")
FIRMWARE = tuple(
    Path("/usr/share") / name
    for name in (
        "qemu/pvh.bin", "qemu/linuxboot_dma.bin", "qemu/kvmvapic.bin", "qemu/multiboot_dma.bin",
        "seabios/bios-256k.bin", "seabios/bios-microvm.bin", "qemu/qboot.rom",
    )
)  # fmt: skip


def compiled(source: str, directory: Path) -> bytes:
    """A static program. Raises cache.BuildFailed."""
    out = directory / source
    run([*COMPILE, "-o", str(out), str(HERE / source)])
    return out.read_bytes()


def closure(program: str) -> dict[str, bytes]:
    """A dynamic program and the libraries that the loader would take, by their absolute names."""
    argv = run(["ldd", program]).split()
    names = [program, *(word for word in argv if word.startswith("/"))]
    return {name: Path(name).read_bytes() for name in names}


def firmware() -> dict[str, bytes]:
    """What QEMU loads for the machines of the benchmark, as far as this version of it has it."""
    return {str(path): path.read_bytes() for path in FIRMWARE if path.exists()}


def modules(place: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Modules of a kernel in the order to load them, by the name of the file in which they are packed."""
    paths = plan.load_order((place / "modules.dep").read_text(), names)
    return {
        f"modules/{number:03}-{Path(path).name.partition('.')[0]}.ko": lzma.decompress((place / path).read_bytes())
        for number, path in enumerate(paths)
    }


def entries(files: dict[str, bytes]) -> list[cpio.Entry]:
    """An archive's entries: `files` by name, executable, with all directories above them, and a console."""
    names = {name.lstrip("/"): data for name, data in files.items()}
    above = {str(parent) for name in names for parent in Path(name).parents} - {"."}
    places = sorted(above | {"dev", "proc", "sys", "tmp", "run"})
    return [
        *(cpio.Entry(name, cpio.S_DIR | 0o755) for name in places),
        cpio.Entry("dev/console", cpio.S_CHAR | 0o600, device=(5, 1)),
        cpio.Entry("dev/null", cpio.S_CHAR | 0o666, device=(1, 3)),
        *(cpio.Entry(name, cpio.S_FILE | 0o755, data) for name, data in names.items()),
    ]


def missing() -> list[str]:
    """The Debian packages of what is needed and not here."""
    programs = {"musl-gcc": "musl-tools", "debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "depmod": "kmod"}
    return sorted({package for name, package in programs.items() if not which(name)})


def is_static(program: str) -> bool:
    """Whether a program has no libraries, so that nothing can be preloaded into it."""
    return subprocess.run(["ldd", program], capture_output=True).returncode != 0
