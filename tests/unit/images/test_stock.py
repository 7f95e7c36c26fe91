# SPDX-License-Identifier: Apache-2.0
"""A distribution's kernel as a guest's: the file inside the packed one, the index of its modules, and the program that
the kernel starts to load them.
"""

import gzip
import struct
import subprocess
from pathlib import Path

import pytest

from stage1.linux.host import which
from tests.fakes.builders import IMAGES, BuildFailed

SOURCE = IMAGES / "stock/modprobe.c"
DEP = {
    "kernel/fs/9p/9p.ko.xz": "kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz",
    "kernel/net/9p/9pnet.ko.xz": "kernel/fs/netfs/netfs.ko.xz",
    "kernel/fs/netfs/netfs.ko.xz": "",
    "kernel/drivers/net/dummy.ko": "",
    "kernel/drivers/net/ethernet/intel/e1000.ko.xz": "",
    "kernel/drivers/net/wireguard/wireguard.ko.xz": "kernel/drivers/char/odd-one.ko.xz",
    "kernel/drivers/char/odd-one.ko.xz": "",
}
ALIASES = """# Aliases extracted from modules themselves.
alias fs-9p 9p
alias rtnl-link-wireguard wireguard
alias pci:v00008086d*sv*sd*bc*sc*i* e1000
alias pci-e1000 e1000
alias rtnl-link-dummy dummy
"""

RECORDER = """
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
long syscall(long number, ...)
{
    char link[32], path[300] = "";
    va_list more;
    va_start(more, number);
    int file = va_arg(more, int);
    const char *parameters = va_arg(more, const char *);
    int flags = va_arg(more, int);
    va_end(more);
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) < 0)
        return -1;
    printf("%s %s %d\\n", path, parameters, flags);
    return 0;
}
"""


@pytest.fixture
def index(builder, tmp_path: Path):
    lines = "".join(f"{name}: {needs}\n" for name, needs in DEP.items())
    (tmp_path / "modules.dep").write_text(lines)
    (tmp_path / "modules.alias").write_text(ALIASES)
    return builder("stock").Index(tmp_path)


def test_a_module_is_loaded_behind_those_that_it_needs(index):
    assert index.in_order(["9p"]) == ["netfs", "9pnet", "9p"]
    assert index.in_order(["9pnet", "9p"]) == ["netfs", "9pnet", "9p"]


def test_drivers_of_hardware_are_left_out_unless_a_module_needs_them(index):
    assert index.kept == ["9p", "9pnet", "dummy", "netfs", "wireguard"]
    assert index.in_order(index.kept)[-2:] == ["odd_one", "wireguard"]


def test_the_index_has_names_aliases_and_parameters_but_no_patterns(index):
    lines = dict(line.split(" ", 1) for line in index.text().splitlines())
    assert lines["fs_9p"] == lines["9p"] == "netfs 9pnet 9p"
    assert lines["rtnl_link_wireguard"] == "odd_one wireguard"
    assert lines["rtnl_link_dummy"] == "dummy,numdummies=0"
    assert not [name for name in lines if "pci" in name or "e1000" in name]


def packed(payload: bytes, *, sectors: int = 4) -> bytes:
    """A bzImage with this payload, and its length behind it as the kernel's build puts it there."""
    setup = bytearray((sectors + 1) * 512)
    setup[0x1F1] = sectors
    struct.pack_into("<II", setup, 0x248, 100, len(payload) + 4)
    return bytes(setup) + bytes(100) + payload + struct.pack("<I", 8) + b"rest"


def test_the_kernel_inside_a_packed_one_is_found(builder):
    assert builder("stock").unpacked(packed(gzip.compress(b"\x7fELF and more")), name="k") == b"\x7fELF and more"


@pytest.mark.parametrize(
    ("payload", "noun"),
    [(b"\x01\x02\x03\x04", "01020304"), (gzip.compress(b"text", mtime=0), "gzip"), (b"\x1f\x8bx", "gzip")],
)
def test_what_can_not_be_unpacked_is_named(builder, payload: bytes, noun: str):
    with pytest.raises(BuildFailed, match=f"/boot/vmlinuz.*{noun}|gzip.*/boot/vmlinuz"):
        builder("stock").unpacked(packed(payload), name="/boot/vmlinuz")


@pytest.fixture(scope="module")
def modprobe(tmp_path_factory):
    """The program, with a directory of its own; it prints what it would give to the kernel."""
    if not which("gcc"):
        pytest.skip("needs gcc")
    place = tmp_path_factory.mktemp("modprobe")
    (place / "record.c").write_text(RECORDER)
    (place / "modules").mkdir()
    (place / "loaded/base").mkdir(parents=True)
    index = "fs_top base left_1 top\nlost base gone\nrtnl_link_bond bonding,max_bonds=0\n"
    (place / "modules/index").write_text(index)
    for name in ("base", "left_1", "top", "bonding"):
        (place / f"modules/{name}.ko").touch()
    names = [f'-DDIRECTORY="{place}/modules"', f'-DLOADED="{place}/loaded"']
    flags = ["-std=c17", "-D_GNU_SOURCE"]
    sources = [SOURCE, place / "record.c"]
    subprocess.run(["gcc", *flags, *names, *sources, "-o", place / "modprobe"], check=True, timeout=60)
    return place / "modprobe"


@pytest.mark.parametrize(
    ("name", "loaded", "code"),
    [
        ("fs-top", ["left_1.ko  0", "top.ko  0"], 0),
        ("fs_top", ["left_1.ko  0", "top.ko  0"], 0),
        ("rtnl-link-bond", ["bonding.ko max_bonds=0 0"], 0),
        ("lost", [], 1), ("fs-to", [], 1), ("fs-top ", [], 1), ("fs-top base", [], 1), ("", [], 1), ("top", [], 1),
        ("../modules/top", [], 1), ("\n", [], 1), ("fs" * 3000, [], 1),
    ],
)  # fmt: skip
def test_modules_that_the_kernel_requests_are_loaded_in_order_and_no_others(modprobe, name, loaded, code):
    done = subprocess.run([modprobe, "-q", "--", name], capture_output=True, text=True, timeout=20)
    lines = [line.removeprefix(f"{modprobe.parent}/modules/") for line in done.stdout.splitlines()]
    assert (lines, done.returncode) == (loaded, code)


def test_without_a_name_or_an_index_nothing_is_loaded(modprobe):
    assert subprocess.run([modprobe], timeout=20).returncode == 1
    index = modprobe.parent / "modules/index"
    text = index.read_text()
    index.unlink()
    assert subprocess.run([modprobe, "-q", "--", "fs-top"], timeout=20).returncode == 1
    index.write_text(text)
