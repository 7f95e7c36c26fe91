# SPDX-License-Identifier: Apache-2.0
"""A distribution's kernel as a guest's: the file inside the packed one, and the index of its modules."""

import gzip
import struct
from pathlib import Path

import pytest

from tests.fakes.builders import BuildFailed

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
    ("payload", "noun"), [(b"\x01\x02\x03\x04", "01020304"), (gzip.compress(b"text"), "gzip"), (b"\x1f\x8bx", "gzip")]
)
def test_what_can_not_be_unpacked_is_named(builder, payload: bytes, noun: str):
    with pytest.raises(BuildFailed, match=f"/boot/vmlinuz.*{noun}|gzip.*/boot/vmlinuz"):
        builder("stock").unpacked(packed(payload), name="/boot/vmlinuz")
