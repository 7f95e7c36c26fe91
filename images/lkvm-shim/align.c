/* SPDX-License-Identifier: Apache-2.0 */
/* See align.h. */
#include "align.h"

#include <stdint.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

static int is_of_huge_pages(const void *address, size_t bytes, int flags)
{
    const int needed = MAP_ANONYMOUS | MAP_PRIVATE,
              other = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_HUGETLB | MAP_GROWSDOWN;
    return !address && bytes && bytes % HUGE_BYTES == 0 && (flags & needed) == needed && !(flags & other);
}

void *align_map(mapping_fn *real, void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (!is_of_huge_pages(address, bytes, flags))
        return real(address, bytes, protection, flags, fd, offset);
    unsigned char *all = real(NULL, bytes + HUGE_BYTES, protection, flags, fd, offset);
    if (all == MAP_FAILED)
        return real(NULL, bytes, protection, flags, fd, offset);
    size_t skip = -(uintptr_t)all % HUGE_BYTES;
    if (skip)
        munmap(all, skip);
    munmap(all + skip + bytes, HUGE_BYTES - skip);
    return all + skip;
}
