# SPDX-License-Identifier: Apache-2.0
"""Where images lie in a kvmtool guest's memory, and how the guest's kernel and the shim are told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.errors import BadRequest
from stage1.vm import dax, kvmtool
from stage1.vm.dax import MIB, Region
from stage1.vm.spec import Dax, DaxImage, VmSpec, VsockLink

GIB = 1024 * MIB
SYSTEM = DaxImage("/g/system.erofs", 6 * MIB)
ODD = DaxImage("/i/odd image.erofs", 2 * MIB + 4096)


@pytest.mark.parametrize(
    ("memory_mib", "first"),
    [
        (48, 4 * GIB),
        (128, 4 * GIB),
        (3327, 4 * GIB),
        # From here on kvmtool puts what would lie in the last 768 MiB below 4 GiB above it.
        (3328, 4 * GIB),
        (3329, 4 * GIB + 2 * MIB),
        (3330, 4 * GIB + 2 * MIB),
        (4096, 4 * GIB + 768 * MIB),
        (32768, 32 * GIB + 768 * MIB),
    ],
)
def test_regions_begin_where_the_ram_of_kvmtool_ends(memory_mib: int, first: int) -> None:
    assert dax.plan(memory_mib, [6 * MIB]) == (Region(first, 6 * MIB),)


def test_regions_follow_each_other_in_whole_huge_pages() -> None:
    assert dax.plan(128, [4096, 2 * MIB, 2 * MIB + 4096, 256 * MIB]) == (
        Region(4 * GIB, 2 * MIB),
        Region(4 * GIB + 2 * MIB, 2 * MIB),
        Region(4 * GIB + 4 * MIB, 4 * MIB),
        Region(4 * GIB + 8 * MIB, 256 * MIB),
    )
    assert dax.plan(128, []) == ()


@given(st.integers(48, 60_000), st.lists(st.integers(1, 4096).map(lambda pages: pages * 4096), max_size=16))
def test_regions_are_aligned_above_ram_and_apart(memory_mib: int, sizes: list[int]) -> None:
    end = max(4 * GIB, memory_mib * MIB + (768 * MIB if memory_mib >= 3328 else 0))
    for region, size in zip(dax.plan(memory_mib, sizes), sizes, strict=True):
        assert region.address >= end
        assert region.address % (2 * MIB) == region.size % (2 * MIB) == 0
        assert 0 <= region.size - size < 2 * MIB
        end = region.address + region.size


@pytest.mark.parametrize("size", [0, -4096, 1, 4095, 2 * MIB + 512])
def test_what_is_no_whole_pages_is_refused(size: int) -> None:
    with pytest.raises(BadRequest, match="not whole pages"):
        dax.plan(128, [4096, size])


def test_more_than_a_cpu_can_address_is_refused() -> None:
    assert dax.plan(128, [60 * GIB])
    with pytest.raises(BadRequest, match="above 128 MiB"):
        dax.plan(128, [60 * GIB, 4096])


def test_the_kernel_and_the_shim_get_the_same_addresses() -> None:
    given_ = Dax("/g/lkvm-shim.so", (SYSTEM, ODD), 256 * MIB, "/run/pod/dax.sock")
    assert dax.kernel_arguments(given_, 128) == [
        "memmap=0x600000!0x100000000",
        "memmap=0x400000!0x100600000",
        "memmap=0x10000000!0x100a00000",
        "clearpod.window=/dev/pmem2",
    ]
    assert dax.environment(given_, 128) == {
        "LD_PRELOAD": "/g/lkvm-shim.so",
        "CLEARPOD_DAX_IMAGES": "0x100000000:6291456:/g/system.erofs,0x100600000:2101248:/i/odd image.erofs",
        "CLEARPOD_DAX_WINDOW": "0x100a00000:268435456:/run/pod/dax.sock",
    }


def test_the_shim_gets_the_windows_socket_where_there_is_a_jail() -> None:
    window = Dax("/g/lkvm-shim.so", (SYSTEM,), 256 * MIB, "/run/pod/dax.sock")
    assert dax.environment(window, 128, by_descriptor=True)["CLEARPOD_DAX_LISTENER"] == "10"
    assert "CLEARPOD_DAX_LISTENER" not in dax.environment(window._replace(window_bytes=0), 128, by_descriptor=True)


VM = VmSpec("v", kvmtool.HYPERVISOR, "/b/lkvm", "/run/pod", "/k", "/i", "/s", 128, 1, VsockLink(9, 1))


def test_kvmtool_gets_the_pods_disk_where_the_shim_is() -> None:
    vm = VM._replace(scratch="/state/pod.img")
    shim = Dax("/g/lkvm-shim.so", (SYSTEM,))
    assert kvmtool.environment(vm._replace(dax=shim))["CLEARPOD_DISK"] == "/state/pod.img"
    for other in (vm, vm._replace(dax=shim, scratch="")):
        assert "CLEARPOD_DISK" not in kvmtool.environment(other)


def test_without_a_window_there_is_no_socket() -> None:
    assert "CLEARPOD_DAX_WINDOW" not in dax.environment(Dax("/g/lkvm-shim.so", (SYSTEM,)), 128)
    assert dax.kernel_arguments(Dax("/g/lkvm-shim.so", (SYSTEM,)), 128) == ["memmap=0x600000!0x100000000"]


@pytest.mark.parametrize(
    ("memory_mib", "kernel_mib", "text"),
    [
        (48, 9, f"{16 << 20}:{26 << 20}"),
        (128, 9, f"{16 << 20}:{106 << 20}"),
        (128, 8.5, f"{16 << 20}:{106 << 20}"),
        (128, 13, f"{20 << 20}:{102 << 20}"),
        (131, 9, f"{16 << 20}:{108 << 20}"),
        (22, 9, None),
        (1024, 9, f"{16 << 20}:{986 << 20}"),
        (8192, 9, f"{16 << 20}:{3164 << 20}"),
    ],
)
def test_the_middle_of_a_guests_memory_gets_small_pages(memory_mib: int, kernel_mib: float, text: str | None) -> None:
    assert dax.small_pages(memory_mib, int(kernel_mib * (1 << 20))).get("CLEARPOD_SMALL_PAGES") == text


@pytest.mark.parametrize(("memory_mib", "given"), [(48, "48M"), (131, "132M"), (3327, "3328M")])
def test_a_guest_has_whole_huge_pages(memory_mib: int, given: str) -> None:
    argv = kvmtool.argv(VM._replace(memory_mib=memory_mib))
    assert argv[argv.index("--mem") + 1] == given


def test_the_shim_gets_the_filter_that_its_vmm_was_started_with() -> None:
    plain = VM._replace(dax=Dax("/g/lkvm-shim.so", (SYSTEM,)))
    filtered = plain._replace(filter="/guest/seccomp-kvmtool.bpf")
    assert "CLEARPOD_FILTERED" not in kvmtool.environment(plain)
    assert kvmtool.environment(filtered)["CLEARPOD_FILTERED"] == "1"
