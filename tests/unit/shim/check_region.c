/* SPDX-License-Identifier: Apache-2.0 */
/* Zero pages, files over them, and zero pages again. */
#include "plan.h"
#include "region.h"
#include "check.h"
#include "scene.h"

#include <fcntl.h>
#include <unistd.h>

enum { PAGE = PAGE_BYTES, PAGES = 1024 };

static struct region region;
static struct fault why;

static void reserve(void)
{
    CHECK(region_reserve(&region, PAGES * PAGE, &why) == 0);
}

static bool maps(uint64_t page, uint64_t pages, int fd)
{
    bool done = region_map(&region, page * PAGE, pages * PAGE, fd, &why) == 0;
    if (!done)
        close(fd);
    return done;
}

static bool unmaps(uint64_t page, uint64_t pages)
{
    return region_unmap(&region, page * PAGE, pages * PAGE, &why) == 0;
}

static bool is_all(uint64_t page, uint64_t pages, int value)
{
    for (uint64_t i = page * PAGE; i < (page + pages) * PAGE; i++)
        if (region.base[i] != value)
            return false;
    return true;
}

CASE(a_new_region_is_aligned_zeros)
{
    reserve();
    CHECK((uintptr_t)region.base % SLOT_ALIGNMENT == 0 && is_all(0, PAGES, 0));
    region_release(&region);
}

CASE(a_file_is_where_it_was_put_and_zeros_come_back)
{
    int before = descriptor_count();
    reserve();
    CHECK(maps(0, 2, file_of(2 * PAGE, 'a')) && maps(2, 1, file_of(PAGE, 'b')) &&
          maps(PAGES - 1, 1, file_of(PAGE, 'c')));
    CHECK(is_all(0, 2, 'a') && is_all(2, 1, 'b') && is_all(3, PAGES - 4, 0) && is_all(PAGES - 1, 1, 'c'));
    CHECK(unmaps(0, 2) && is_all(0, 2, 0) && is_all(2, 1, 'b'));
    CHECK(maps(0, 1, file_of(PAGE, 'd')) && is_all(0, 1, 'd'));
    CHECK(unmaps(0, PAGES) && is_all(0, PAGES, 0));
    CHECK(unmaps(0, PAGES));
    CHECK(descriptor_count() == before);
    region_release(&region);
}

CASE(what_is_outside_or_no_whole_page_is_refused)
{
    reserve();
    CHECK(!maps(PAGES, 1, file_of(PAGE, 'a')) && strstr(why.text, "outside"));
    CHECK(!maps(PAGES - 1, 2, file_of(2 * PAGE, 'a')));
    CHECK(!maps(UINT64_MAX / PAGE, 1, file_of(PAGE, 'a')));
    CHECK(!maps(0, UINT64_MAX / PAGE, file_of(PAGE, 'a')));
    CHECK(!maps(0, 0, file_of(0, 'a')) && strstr(why.text, "whole pages"));
    CHECK(region_unmap(&region, 1, PAGE, &why) < 0 && region_unmap(&region, 0, PAGE + 1, &why) < 0);
    CHECK(!unmaps(PAGES - 1, 2) && !unmaps(0, PAGES + 1));
    CHECK(is_all(0, PAGES, 0));
    region_release(&region);
}

CASE(a_file_of_another_length_or_kind_is_refused)
{
    int before = descriptor_count();
    reserve();
    CHECK(!maps(0, 2, file_of(PAGE, 'a')) && strstr(why.text, "4096 bytes where 8192 were promised"));
    CHECK(!maps(0, 1, file_of(2 * PAGE, 'a')));
    CHECK(!maps(0, 1, file_of(PAGE + 1, 'a')) && strstr(why.text, "whole pages"));
    CHECK(!maps(0, 1, open("/dev/zero", O_RDONLY)) && strstr(why.text, "regular"));
    CHECK(!maps(0, 1, open("/tmp", O_RDONLY | O_DIRECTORY)));
    CHECK(region_map(&region, 0, PAGE, -1, &why) < 0);
    CHECK(!maps(0, 1, open(file_at("writeonly", PAGE, 'a'), O_WRONLY)) && strstr(why.text, "can't be mapped"));
    CHECK(is_all(0, PAGES, 0) && descriptor_count() == before);
    region_release(&region);
}

CASE(no_image_lies_over_another_and_none_goes_in_part)
{
    reserve();
    CHECK(maps(4, 4, file_of(4 * PAGE, 'a')));
    for (uint64_t page = 3; page < 8; page++)
        CHECK(!maps(page, 2, file_of(2 * PAGE, 'b')) && strstr(why.text, "there already"));
    CHECK(!unmaps(4, 3) && !unmaps(5, 3) && !unmaps(5, 2) && !unmaps(0, 5) && strstr(why.text, "in part"));
    CHECK(is_all(4, 4, 'a'));
    CHECK(unmaps(3, 6) && is_all(3, 6, 0));
    region_release(&region);
}

CASE(a_table_that_is_full_says_so)
{
    reserve();
    for (uint64_t page = 0; page < 512; page++)
        CHECK(maps(page, 1, file_of(PAGE, 'a')));
    CHECK(!maps(600, 1, file_of(PAGE, 'a')) && strstr(why.text, "more than 512"));
    CHECK(unmaps(0, 512) && maps(600, 1, file_of(PAGE, 'a')));
    region_release(&region);
}

CASE(a_file_that_was_cut_short_reads_as_zeros_after_healing)
{
    reserve();
    int fd = file_of(4 * PAGE, 'a');
    CHECK(maps(1, 4, fd) && !region_heal());
    CHECK(ftruncate(fd, PAGE + 100) == 0);
    CHECK(region_heal() && is_all(1, 1, 'a') && region.base[2 * PAGE + 99] == 'a' && region.base[2 * PAGE + 100] == 0);
    CHECK(is_all(3, 2, 0));
    CHECK(region_heal()); /* a second vCPU that failed at the same time may go on too */
    CHECK(!maps(4, 1, file_of(PAGE, 'b')) && unmaps(1, 4) && !region_heal());
    region_release(&region);
}
