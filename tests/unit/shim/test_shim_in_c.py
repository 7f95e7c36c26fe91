# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the C tests of kvmtool's shim (check_*.c beside this file), and preloads the library."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.c_program import CProgram, marks
from tests.fakes.patience import PATIENCE
from tests.fakes.small_disk import small_disk

SHIM = CProgram("lkvm-shim")
LIMIT_BYTES = 32 * 1024

pytestmark = marks("make", "gcc", limit_s=120)

# The request of KVM_SET_USER_MEMORY_REGION to a file that is no VM: the shim must leave it at the kernel's answer.
NOT_A_VM = """
import fcntl
try:
    fcntl.ioctl(open("/dev/null"), 0x4020AE46, bytes(32))
except OSError as error:
    print(error.errno)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as it is shipped, at a path without spaces: LD_PRELOAD is a list."""
    SHIM.make("all")
    return Path(shutil.copy(SHIM.out / "lkvm-shim.so", tmp_path_factory.mktemp("library")))


def test_the_shim_keeps_its_promises_before_a_fake_kvm() -> None:
    assert " cases\n" in SHIM.make("check")


def test_the_library_is_small_shows_three_functions_and_needs_only_libc(library: Path) -> None:
    assert library.stat().st_size <= LIMIT_BYTES
    shown = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines()] == ["ioctl", "mmap64", "pwritev64"]
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in needed.splitlines() if "NEEDED" in line] == ["[libc.so.6]"]


@pytest.mark.parametrize("variables", [{}, {"CLEARPOD_DAX_IMAGES": "0x100000000:4096:/absent"}], ids=["bare", "with"])
def test_other_programs_do_not_notice_it(library: Path, variables: dict[str, str]) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(library), **variables}
    done = subprocess.run(
        [sys.executable, "-I", "-c", NOT_A_VM], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "25\n", "")


WRITES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]
for path in sys.argv[1:]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    done = libc.pwritev64(fd, ctypes.byref(Piece(b"x" * 65536, 65536)), 1, ctypes.c_long(0))
    print(done if done >= 0 else os.strerror(ctypes.get_errno()), flush=True)
"""


def test_a_guests_write_waits_for_space_and_one_to_a_volume_does_not(library: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "image", tmp_path / "disk", mib=8) as disk:
        scratch, volume = disk.place / "scratch.img", disk.place / "volume"
        scratch.touch()
        disk.fill()
        argv = [sys.executable, "-I", "-c", WRITES, str(volume), str(scratch)]
        environment = {**os.environ, "LD_PRELOAD": str(library), "CLEARPOD_DISK": str(scratch)}
        with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "No space left on device\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.5)
            disk.free()
            assert writer.stdout.readline() == "65536\n"
            assert writer.wait(20 * PATIENCE) == 0
        assert scratch.read_bytes() == b"x" * 65536
