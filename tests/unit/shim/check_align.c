/* SPDX-License-Identifier: Apache-2.0 */
/* Where the guest's memory begins, on a host that aligns nothing. */
#include "align.h"
#include "check.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

enum { HUGE = 2 << 20, ANY = MAP_ANONYMOUS | MAP_PRIVATE, RW = PROT_READ | PROT_WRITE };

static size_t shift; /* where the fake kernel's mappings begin in a huge page */
static size_t most;  /* of a mapping; 0: any */

static void *shifted(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (most && bytes > most) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    unsigned char *room = mmap(NULL, bytes + 2 * HUGE, PROT_NONE, ANY, -1, 0);
    CHECK(room != MAP_FAILED);
    unsigned char *at = room + (-(uintptr_t)room % HUGE) + shift;
    munmap(room, bytes + 2 * HUGE);
    return mmap(address ? address : at, bytes, protection, flags, fd, offset);
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
        unsigned char *at = align_map(shifted, NULL, 2 * HUGE, RW, ANY | MAP_NORESERVE, -1, 0);
        CHECK(at != MAP_FAILED && (uintptr_t)at % HUGE == 0);
        at[0] = at[2 * HUGE - 1] = 1;
        CHECK(!is_mapped(at + 2 * HUGE) && !is_mapped(at - 4096));
        munmap(at, 2 * HUGE);
    }
}

CASE(other_mappings_are_the_kernels_alone)
{
    shift = 4096;
    unsigned char *odd = align_map(shifted, NULL, HUGE + 4096, RW, ANY, -1, 0);
    CHECK((uintptr_t)odd % HUGE == 4096);
    unsigned char *same = align_map(shifted, odd, HUGE, PROT_READ, ANY | MAP_FIXED, -1, 0);
    CHECK(same == odd);
    munmap(odd, HUGE + 4096);
    unsigned char *shared = align_map(shifted, NULL, HUGE, RW, MAP_ANONYMOUS | MAP_SHARED, -1, 0);
    CHECK((uintptr_t)shared % HUGE == 4096);
    munmap(shared, HUGE);
    CHECK(align_map(shifted, NULL, 0, RW, ANY, -1, 0) == MAP_FAILED && errno == EINVAL);
}

CASE(where_there_is_no_room_for_more_memory_is_where_the_kernel_puts_it)
{
    shift = 4096;
    most = HUGE;
    unsigned char *at = align_map(shifted, NULL, HUGE, RW, ANY, -1, 0);
    CHECK((uintptr_t)at % HUGE == 4096);
    munmap(at, HUGE);
    most = 0;
}
