/* SPDX-License-Identifier: Apache-2.0 */
/* Where the guest's memory begins, on a host that aligns nothing. */
#include "align.h"
#include "check.h"

#include <stdint.h>
#include <sys/mman.h>

enum { HUGE = 2 << 20, ANY = MAP_ANONYMOUS | MAP_PRIVATE, RW = PROT_READ | PROT_WRITE };

static size_t shift; /* where the fake kernel's mappings begin in a huge page */
static size_t most;  /* of a mapping; 0: any */

static void *shifted(size_t bytes, int protection, int flags)
{
    if (most && bytes > most)
        return MAP_FAILED;
    unsigned char *room = mmap(NULL, bytes + 2 * HUGE, PROT_NONE, ANY, -1, 0);
    CHECK(room != MAP_FAILED);
    unsigned char *at = room + (-(uintptr_t)room % HUGE) + shift;
    munmap(room, bytes + 2 * HUGE);
    return mmap(at, bytes, protection, flags, -1, 0);
}

static int is_mapped(void *at)
{
    unsigned char seen;
    return mincore(at, 4096, &seen) == 0;
}

CASE(memory_of_huge_pages_begins_at_one_and_has_nothing_around_it)
{
    static const size_t shifts[] = {0, 4096, HUGE / 2, HUGE - 4096};
    for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++) {
        shift = shifts[i];
        unsigned char *at = align_map(shifted, 2 * HUGE, RW, ANY | MAP_NORESERVE);
        CHECK(at != MAP_FAILED && (uintptr_t)at % HUGE == 0);
        at[0] = at[2 * HUGE - 1] = 1;
        CHECK(!is_mapped(at + 2 * HUGE) && !is_mapped(at - 4096));
        munmap(at, 2 * HUGE);
    }
}

CASE(other_mappings_are_the_kernels_alone)
{
    CHECK(align_concerns(NULL, HUGE, ANY) && align_concerns(NULL, 5 * (size_t)HUGE, ANY | MAP_NORESERVE));
    CHECK(!align_concerns(NULL, HUGE + 4096, ANY) && !align_concerns(NULL, 0, ANY));
    CHECK(!align_concerns((void *)HUGE, HUGE, ANY) && !align_concerns(NULL, HUGE, ANY | MAP_FIXED));
    CHECK(!align_concerns(NULL, HUGE, ANY | MAP_HUGETLB) && !align_concerns(NULL, HUGE, MAP_PRIVATE));
    CHECK(!align_concerns(NULL, HUGE, MAP_ANONYMOUS | MAP_SHARED));
}

CASE(where_there_is_no_room_for_more_memory_is_where_the_kernel_puts_it)
{
    shift = 4096;
    most = HUGE;
    unsigned char *at = align_map(shifted, HUGE, RW, ANY);
    CHECK((uintptr_t)at % HUGE == 4096);
    munmap(at, HUGE);
    CHECK(align_map(shifted, 2 * HUGE, RW, ANY) == MAP_FAILED);
    most = 0;
}
