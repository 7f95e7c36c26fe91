/* SPDX-License-Identifier: Apache-2.0 */
/* The shim's variables: what is read, and that all else is refused. */
#include "plan.h"
#include "check.h"

static struct plan plan;
static struct fault why;

static bool takes(const char *images, const char *window)
{
    why.text[0] = 0;
    return plan_parse(images, window, &plan, &why) == 0;
}

CASE(no_variable_is_an_empty_plan)
{
    CHECK(takes(NULL, NULL));
    CHECK(plan.image_count == 0 && !plan.has_window);
    CHECK(takes("", NULL) && plan.image_count == 0);
}

CASE(images_and_a_window_are_read)
{
    CHECK(takes("0x100000000:8192:/a b/c:d,4297064448:0x1000:/e", "0x180000000:268435456:/run/dax.sock"));
    CHECK(plan.image_count == 2 && plan.has_window);
    CHECK(plan.images[0].address == 1ULL << 32 && plan.images[0].bytes == 8192);
    CHECK(strcmp(plan.images[0].path, "/a b/c:d") == 0);
    CHECK(plan.images[1].address == (1ULL << 32) + (2 << 20) && plan.images[1].bytes == 4096);
    CHECK(strcmp(plan.images[1].path, "/e") == 0);
    CHECK(plan.window.address == 0x180000000 && plan.window.bytes == 256 << 20);
}

CASE(what_is_no_list_of_places_is_refused)
{
    static const char *const texts[] = {
        "x",
        "/a",
        "0x100000000",
        "0x100000000:4096",
        "0x100000000:4096:",
        "0x100000000:4096:relative",
        ":4096:/a",
        "0x100000000::/a",
        " 0x100000000:4096:/a",
        "-0x100000000:4096:/a",
        "+4294967296:4096:/a",
        "0x:4096:/a",
        "99999999999999999999999:4096:/a",
        "0x100000000:4096:/a,",
        "0x100000000:4096:/a,,0x100200000:4096:/b",
        "0x100000000 :4096:/a",
        "0x100000000:-4096:/a",
        "0x100000000:4096,/a",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bool trailing = strcmp(texts[i], "0x100000000:4096:/a,") == 0; /* harmless */
        CHECK(takes(texts[i], NULL) == trailing);
        CHECK(trailing || why.text[0]);
    }
}

CASE(addresses_and_lengths_that_kvm_or_the_guest_can_not_use_are_refused)
{
    CHECK(!takes("0x100001000:4096:/a", NULL) && strstr(why.text, "multiple of 2 MiB"));
    CHECK(!takes("0:4096:/a", NULL));
    CHECK(!takes("0x400000000000:4096:/a", NULL));
    CHECK(!takes("0x100000000:4095:/a", NULL) && strstr(why.text, "whole pages"));
    CHECK(!takes("0x100000000:0:/a", NULL));
    CHECK(!takes("0x100000000:0xfffffffffffff000:/a", NULL));
    CHECK(!takes(NULL, "0x100000000:100:/a"));
}

CASE(places_that_overlap_are_refused)
{
    CHECK(!takes("0x100000000:0x201000:/a,0x100200000:4096:/b", NULL) && strstr(why.text, "/b overlaps /a"));
    CHECK(takes("0x100000000:0x200000:/a,0x100200000:4096:/b", NULL));
    CHECK(!takes("0x100000000:4096:/a", "0x100000000:4096:/w") && strstr(why.text, "the window"));
}

CASE(a_path_and_a_list_have_their_longest)
{
    char text[40 * IMAGES_MAX + 700] = "0x100000000:4096:/";
    size_t head = strlen(text);
    memset(text + head, 'x', sizeof plan.images[0].path - 1);
    CHECK(!takes(text, NULL));
    text[head + sizeof plan.images[0].path - 2] = 0;
    CHECK(takes(text, NULL));
    text[0] = 0;
    for (int i = 0; i < IMAGES_MAX; i++)
        sprintf(text + strlen(text), "%#llx:4096:/a,", (1ULL << 32) + i * (2ULL << 20));
    CHECK(takes(text, NULL) && plan.image_count == IMAGES_MAX);
    strcat(text, "0x200000000:4096:/a");
    CHECK(!takes(text, NULL) && strstr(why.text, "more than 16"));
}

CASE(a_slot_is_whole_huge_pages)
{
    CHECK(plan_slot_bytes(1) == 2 << 20 && plan_slot_bytes(2 << 20) == 2 << 20);
    CHECK(plan_slot_bytes((2 << 20) + 4096) == 4 << 20);
}
