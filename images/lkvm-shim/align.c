/* SPDX-License-Identifier: Apache-2.0 */
/* See align.h. */
#include "align.h"

#include <stdint.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

bool align_concerns(const void *address, size_t bytes, int flags)
{
    const int needed = MAP_ANONYMOUS | MAP_PRIVATE;
    const int other = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_HUGETLB | MAP_GROWSDOWN;
    return !address && bytes && bytes % HUGE_BYTES == 0 && (flags & needed) == needed && !(flags & other);
}

void *align_map(anonymous_fn *map, size_t bytes, int protection, int flags)
{
    unsigned char *all = map(bytes + HUGE_BYTES, protection, flags);
    if (all == MAP_FAILED)
        return map(bytes, protection, flags);
    size_t skip = -(uintptr_t)all % HUGE_BYTES;
    if (skip)
        munmap(all, skip);
    munmap(all + skip + bytes, HUGE_BYTES - skip);
    return all + skip;
}
