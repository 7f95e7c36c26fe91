# SPDX-License-Identifier: Apache-2.0
"""Where images that a kvmtool guest reads by DAX lie in its physical memory. Pure; for `kvmtool.py`.

Each image has a region of its own above RAM, and so has the window, which is filled while the VM runs. The guest's
kernel makes /dev/pmem0, /dev/pmem1, ... of the regions, in their order. images/lkvm-shim/README.md has the other end.
"""

from collections.abc import Sequence
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.vm.spec import LISTENER_FD, Dax

MIB = 1 << 20
PAGE_BYTES = 4096
ALIGNMENT_BYTES = 2 * MIB
"""Of a region's address and length: the least that the guest's kernel makes struct pages for."""

_FIRST_BYTES, _BOOT_BYTES, _TAIL_BYTES = MIB, 6 * MIB, 4 * MIB
"""A guest that boots fills these of its memory: what is before the kernel, and what follows it; and the end with the
initramfs and, beside these bytes, with page structures and tables."""
_PART_OF_PAGES, _PART_OF_TABLES = 64, 512
"""They are these parts of its memory: 64 bytes for each 4 KiB, and a list for each 8 and each 16 KiB, by which file
names and files are found."""

_4_GIB = 4096 * MIB
# kvmtool leaves these last bytes below 4 GiB to devices, and RAM that would lie there goes above 4 GiB.
_GAP_BYTES = 768 * MIB
_END = 1 << 36  # the smallest physical address space of an x86-64 CPU


class Region(NamedTuple):
    """A piece of the guest's physical memory."""

    address: int
    size: int


def plan(memory_mib: int, sizes: Sequence[int]) -> tuple[Region, ...]:
    """A region for each of `sizes` (bytes), in this order, above kvmtool's RAM of `memory_mib`.

    Raises BadRequest when a size is not positive whole pages, or there is not so much address space.
    """
    regions: list[Region] = []
    address = _ram_end(memory_mib)
    for size in sizes:
        if size <= 0 or size % PAGE_BYTES:
            raise BadRequest(f"{size} bytes can't be shared with a guest by DAX: they are not whole pages")
        regions.append(Region(address, _round_up(size)))
        address += regions[-1].size
    if address > _END:
        raise BadRequest(f"images of {sum(sizes)} bytes do not fit above {memory_mib} MiB of guest memory")
    return tuple(regions)


def regions(dax: Dax, memory_mib: int) -> tuple[Region, ...]:
    """Return the regions of the images, and last that of the window if there is one. Raises BadRequest as
    `plan` does.
    """
    window = [dax.window_bytes] if dax.window_bytes else []
    return plan(memory_mib, [*(image.size for image in dax.images), *window])


def kernel_arguments(dax: Dax, memory_mib: int) -> list[str]:
    """The guest's kernel arguments for the regions."""
    memory = [f"memmap={region.size:#x}!{region.address:#x}" for region in regions(dax, memory_mib)]
    return [*memory, f"clearpod.window=/dev/pmem{len(dax.images)}"] if dax.window_bytes else memory


def environment(dax: Dax, memory_mib: int, *, by_descriptor: bool = False) -> dict[str, str]:
    """The VMM's environment variables for the shim; with `by_descriptor` it inherits the window's socket."""
    places = regions(dax, memory_mib)
    images = [f"{place.address:#x}:{image.size}:{image.path}" for place, image in zip(places, dax.images, strict=False)]
    variables = {"LD_PRELOAD": dax.library, "CLEARPOD_DAX_IMAGES": ",".join(images)}
    if dax.window_bytes:
        variables["CLEARPOD_DAX_WINDOW"] = f"{places[-1].address:#x}:{dax.window_bytes}:{dax.socket}"
        if by_descriptor:
            variables["CLEARPOD_DAX_LISTENER"] = str(LISTENER_FD)
    return variables


def small_pages(memory_mib: int, kernel_bytes: int) -> dict[str, str]:
    """Return the shim's variable that keeps huge pages to the parts of the guest's memory that are full after boot;
    the bzImage has `kernel_bytes`.
    """
    head = _round_up(_FIRST_BYTES + kernel_bytes) + _BOOT_BYTES
    size = _round_up(memory_mib * MIB)
    structures = _round_up(size // _PART_OF_PAGES) + _round_down(size // _PART_OF_TABLES)
    rest = min(size, _4_GIB - _GAP_BYTES) - head - _TAIL_BYTES - structures
    return {"CLEARPOD_SMALL_PAGES": f"{head}:{rest}"} if rest > 0 else {}


def _ram_end(memory_mib: int) -> int:
    size = memory_mib * MIB
    return _4_GIB if size < _4_GIB - _GAP_BYTES else _round_up(max(_4_GIB, size + _GAP_BYTES))


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _round_down(size: int) -> int:
    return size // ALIGNMENT_BYTES * ALIGNMENT_BYTES
