# SPDX-License-Identifier: Apache-2.0
"""Which file is the kernel of a VM, and the error when it is not there."""

from pathlib import Path
from types import ModuleType

import pytest

from stage1.errors import NotFound
from stage1.vm import kernels, kvmtool, qemu

PRESENT = ("vmlinux", "bzImage", "vmlinux-mine", "bzImage-mine", "vmlinux-b", "initramfs", "vmlinuz-c")


@pytest.fixture
def guest_dir(tmp_path: Path) -> str:
    for name in PRESENT:
        (tmp_path / name).touch()
    return str(tmp_path)


@pytest.mark.parametrize(
    ("driver", "variant", "expected"),
    [
        (qemu, "", "vmlinux"),
        (kvmtool, "", "bzImage"),
        (qemu, "mine", "vmlinux-mine"),
        (kvmtool, "mine", "bzImage-mine"),
        (qemu, "b", "vmlinux-b"),
    ],
)
def test_a_hypervisor_and_a_variant_have_a_file(
    guest_dir: str, driver: ModuleType, variant: str, expected: str
) -> None:
    assert kernels.file_name(guest_dir, variant, hypervisor=driver.HYPERVISOR) == expected


@pytest.mark.parametrize(
    ("driver", "variant", "known"),
    [
        (qemu, "ipsec", "b, mine"),
        (kvmtool, "b", "mine"),
        (qemu, "../mine", "b, mine"),
        (qemu, "c", "b, mine"),
        (qemu, "MINE", "b, mine"),
    ],
)
def test_a_variant_that_is_not_there_is_named_with_those_that_are(
    guest_dir: str, driver: ModuleType, variant: str, known: str
) -> None:
    with pytest.raises(NotFound, match=f"guest kernel '{variant}', .* {known};"):
        kernels.file_name(guest_dir, variant, hypervisor=driver.HYPERVISOR)


def test_a_directory_without_variants_or_that_is_absent_has_none(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        assert kernels.file_name(str(place), "", hypervisor=qemu.HYPERVISOR) == "vmlinux"
        with pytest.raises(NotFound, match=r"none; .*`clearpod images build stock`"):
            kernels.file_name(str(place), "stock", hypervisor=qemu.HYPERVISOR)


def test_only_what_can_be_built_comes_with_how_to_build_it(guest_dir: str) -> None:
    with pytest.raises(NotFound, match=r"'ipsec'.*b, mine; .*or for stock, which `clearpod images build stock`"):
        kernels.file_name(guest_dir, "ipsec", hypervisor=qemu.HYPERVISOR)
    Path(guest_dir, "vmlinux-stock").touch()
    with pytest.raises(NotFound, match=r"'ipsec'.*b, mine, stock;"):
        kernels.file_name(guest_dir, "ipsec", hypervisor=qemu.HYPERVISOR)


@pytest.mark.parametrize(
    ("present", "variant", "expected"),
    [
        (("vmlinux", "vmlinux-stock"), "", ""),
        (("vmlinux-stock",), "", "stock"),
        (("vmlinux-stock",), "mine", "mine"),
        (("bzImage-stock",), "", ""),
        ((), "", ""),
        (("vmlinux",), "stock", "stock"),
    ],
)
def test_the_stock_kernel_is_booted_where_the_ordinary_one_is_not_built(
    tmp_path: Path, present: tuple[str, ...], variant: str, expected: str
) -> None:
    for name in present:
        (tmp_path / name).touch()
    assert kernels.chosen(str(tmp_path), variant, hypervisor=qemu.HYPERVISOR) == expected
