# SPDX-License-Identifier: Apache-2.0
"""The library that QEMU is started with for a copy, preloaded into a program that maps its memory as QEMU does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.c_program import CProgram, marks

SHIM = CProgram("qemu-shim")
LIMIT_BYTES = 16 * 1024
SIZE = 1 << 20

pytestmark = marks("make", "gcc", limit_s=120)

# QEMU reserves room, then puts the memory of the guest there. What the guest has freed is MADV_DONTNEED.
MAPS = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap64.restype = ctypes.c_void_p
FIXED, ANONYMOUS, PRIVATE, RW = 0x10, 0x20, 2, 3
def put(size, prot=RW, flags=FIXED | ANONYMOUS | PRIVATE):
    room = libc.mmap64(None, ctypes.c_size_t(size), 0, ANONYMOUS | PRIVATE, -1, ctypes.c_long(0))
    at = libc.mmap64(ctypes.c_void_p(room), ctypes.c_size_t(size), prot, flags, -1, ctypes.c_long(0))
    assert at == room
    return at
def first(at):
    return ctypes.string_at(at, 4).decode().strip(chr(0)) or "zeros"
SIZE = int(sys.argv[1])
print(first(put(SIZE // 2)), first(put(SIZE, prot=1)))
at = put(SIZE)
before = first(at)
ctypes.memmove(at, b"mine", 4)
written = first(at)
assert libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(SIZE), mmap.MADV_DONTNEED) == 0
print(before, written, first(at), first(put(SIZE)))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as it is shipped, at a path without spaces: LD_PRELOAD is a list."""
    SHIM.make("all")
    return Path(shutil.copy(SHIM.out / "qemu-shim.so", tmp_path_factory.mktemp("library")))


def run(library: Path, variables: dict[str, str], fd: int = -1) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": str(library), **variables}
    argv = [sys.executable, "-I", "-c", MAPS, str(SIZE)]
    passed = [fd] if fd >= 0 else []
    return subprocess.run(argv, env=environment, pass_fds=passed, capture_output=True, text=True, check=False)


def test_the_library_is_small_shows_one_function_and_needs_only_libc(library: Path) -> None:
    assert library.stat().st_size <= LIMIT_BYTES
    shown = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines()] == ["mmap64"]
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in needed.splitlines() if "NEEDED" in line] == ["[libc.so.6]"]


def test_the_first_mapping_of_that_size_has_the_files_content_also_after_it_was_given_back(
    library: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ram"
    file.write_bytes(b"file".ljust(SIZE, b"\0"))
    file.chmod(0o444)
    fd = os.open(file, os.O_RDONLY)
    try:
        done = run(library, {"CLEARPOD_RAM": f"{fd}:{SIZE}"}, fd)
    finally:
        os.close(fd)
    assert (done.returncode, done.stdout, done.stderr) == (0, "zeros zeros\nfile mine file zeros\n", "")
    assert file.read_bytes()[:4] == b"file"


def test_without_its_variable_nothing_is_changed(library: Path) -> None:
    done = run(library, {})
    assert (done.returncode, done.stdout, done.stderr) == (0, "zeros zeros\nzeros mine zeros zeros\n", "")


# Pages that are there take no fault when they are read; of the code, the first ones none when they are written.
LOADS = """
import ctypes, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap64.restype = ctypes.c_void_p
FIXED, ANONYMOUS, PRIVATE, RW, EXEC = 0x10, 0x20, 2, 3, 4
SIZE, CODE = int(sys.argv[1]), 16 << 20
def put(at, size, prot, flags):
    flags |= ANONYMOUS | PRIVATE
    return libc.mmap64(ctypes.c_void_p(at), ctypes.c_size_t(size), prot, flags, -1, ctypes.c_long(0))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def read(at, size):
    was = faults()
    assert not any(ctypes.string_at(at + page, 1) != bytes(1) for page in range(0, size, 4096))
    return faults() - was
room = put(None, SIZE, 0, 0)
memory = read(put(room, SIZE, RW, FIXED), SIZE)
other = read(put(None, SIZE, RW, 0), SIZE)
code = put(None, 2 * CODE, RW | EXEC, 0)
was = faults()
ctypes.memset(code, 1, CODE)
print(memory < SIZE >> 14, other >= SIZE >> 13, faults() - was < CODE >> 14)
"""


@pytest.mark.parametrize(
    ("variables", "there"), [({"CLEARPOD_LOADS": str(SIZE)}, "True True True"), ({}, "False True False")]
)
def test_the_pages_of_a_guest_that_will_be_loaded_are_there_before(
    library: Path, variables: dict[str, str], there: str
) -> None:
    """Without huge pages, as in the jail."""
    code = f"import ctypes; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)\n{LOADS}"
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": str(library), **variables}
    argv = [sys.executable, "-I", "-c", code, str(SIZE)]
    assert subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.strip() == there


@pytest.mark.parametrize("value", ["", "0", "4095", "4096:", "-4096", "x", "9" * 30])
def test_a_bad_size_of_what_is_loaded_ends_the_program(library: Path, value: str) -> None:
    done = run(library, {"CLEARPOD_LOADS": value})
    assert done.returncode == 78 and done.stderr.startswith("qemu-shim: CLEARPOD_LOADS") and not done.stdout


@pytest.mark.parametrize(
    "value", ["", "3", "3:", ":4096", "3:4095", "3:0", "-1:4096", "3:4096x", "x:4096", "3:9" + "9" * 30]
)
def test_a_bad_variable_ends_the_program_before_it_maps_anything(library: Path, value: str) -> None:
    done = run(library, {"CLEARPOD_RAM": value})
    assert done.returncode == 78 and done.stderr.startswith("qemu-shim: CLEARPOD_RAM") and not done.stdout


def test_a_descriptor_that_is_not_open_ends_the_program(library: Path) -> None:
    done = run(library, {"CLEARPOD_RAM": f"999:{SIZE}"})
    assert done.returncode == 78 and "memory" in done.stderr
