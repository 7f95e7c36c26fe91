/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about the launch description. */
#include "check.h"
#include "description.h"

#include <string.h>

#define LEAST "/run/pod\0a/bin/vm\0c0 1879048192 65536\0"

static struct description description;

static bool parse(const char *text, size_t size)
{
    static char bytes[65536];
    memcpy(bytes, text, size);
    return description_parse(bytes, size, &description);
}

/* The least that makes sense, and these words. */
static bool with(const char *words, size_t size)
{
    static char text[4096];
    size_t least = sizeof LEAST - 1;
    memcpy(text, LEAST, least);
    memcpy(text + least, words, size);
    return parse(text, least + size);
}

#define WITH(words) with(words, sizeof words)

CASE(the_least_is_a_root_a_program_and_its_ids)
{
    CHECK(parse(LEAST, sizeof LEAST - 1));
    CHECK(!strcmp(description.root, "/run/pod") && !strcmp(description.argv[0], "/bin/vm") && !description.argv[1] &&
          !description.env[0]);
    CHECK(!description.netns && !description.filter && !description.hostname && !description.dies_with_parent &&
          !description.small_pages);
    CHECK(!parse("a/bin/vm\0c0 5 1", sizeof "a/bin/vm\0c0 5 1"));
    CHECK(!parse("/run/pod\0c0 5 1", sizeof "/run/pod\0c0 5 1"));
    CHECK(!parse("/run/pod\0a/bin/vm", sizeof "/run/pod\0a/bin/vm"));
    CHECK(!parse(LEAST, sizeof LEAST - 2) && !parse("", 0) && !parse("", 1));
}

CASE(places_links_devices_and_small_file_systems)
{
    CHECK(WITH("r/usr\0w/disk\0m/share\0v/own\0yusr/lib:/lib\0d10:232:/dev/kvm\0h1024:/vmm"));
    CHECK(description.place_count == 4 && description.places[3].writable && description.places[3].mapped &&
          !description.places[1].mapped && !description.places[0].writable && description.places[1].writable &&
          description.places[2].mapped);
    CHECK(!strcmp(description.links[0].target, "usr/lib") && !strcmp(description.links[0].path, "/lib"));
    CHECK(description.devices[0].major == 10 && description.devices[0].minor == 232 &&
          !strcmp(description.devices[0].path, "/dev/kvm"));
    CHECK(description.homes[0].number == 1024 && !strcmp(description.homes[0].text, "/vmm"));
    CHECK(!WITH("rusr") && !WITH("yx") && !WITH("y:/lib") && !WITH("d10:/dev/kvm") && !WITH("d4096:1:/dev/x"));
    CHECK(WITH("j4711") && description.joined == 4711 && WITH("p") && !description.joined);
    CHECK(!WITH("j") && !WITH("j1") && !WITH("j-2") && !WITH("j4294967296") && !WITH("j4711 "));
    CHECK(!WITH("h1024:vmm") && !WITH("h:/vmm") && !WITH("h-1:/vmm"));
}

CASE(rules_limits_cgroups_and_the_rest)
{
    CHECK(WITH("s1f:/usr\0l7 1024 18446744073709551615\0g/sys/fs/cgroup/x\0f/filter\0uvmm\0n\0p\0b\0eA=b\0a-x"));
    CHECK(description.rules[0].number == 0x1f && !strcmp(description.rules[0].text, "/usr"));
    CHECK(description.limits[0].resource == 7 && description.limits[0].soft == 1024 &&
          description.limits[0].hard == UINT64_MAX);
    CHECK(!strcmp(description.cgroups[0], "/sys/fs/cgroup/x") && !strcmp(description.filter, "/filter"));
    CHECK(!*description.netns && !strcmp(description.hostname, "vmm") && description.dies_with_parent &&
          description.small_pages);
    CHECK(!strcmp(description.env[0], "A=b") && !strcmp(description.argv[1], "-x"));
    CHECK(!WITH("l7 2 1") && !WITH("l16 1 1") && !WITH("l7 1") && !WITH("sx:/usr") && !WITH("s1:usr"));
    CHECK(!WITH("px") && !WITH("u") && !WITH("nx") && !WITH("gx") && !WITH("fx") && !WITH("x") && !WITH("\0"));
}

CASE(descriptors_are_numbers_past_the_third)
{
    CHECK(WITH("k10\0t16:tap0"));
    CHECK(description.kept[0] == 10 && description.taps[0].number == 16 && !strcmp(description.taps[0].text, "tap0"));
    CHECK(!WITH("k2") && !WITH("k1024") && !WITH("k") && !WITH("t2:tap0") && !WITH("t16:") && !WITH("k 10"));
}

CASE(ids_of_the_host_are_mapped_and_never_its_root)
{
    uint32_t outside;
    CHECK(WITH("c100000 200000 10"));
    CHECK(description_outside(&description, 0, &outside) && outside == 1879048192);
    CHECK(description_outside(&description, 100009, &outside) && outside == 200009 &&
          !description_outside(&description, 100010, &outside));
    CHECK(!WITH("c65536 0 10") && !WITH("c65536 5 0") && !WITH("c4294967290 5 10") && !WITH("c5 4294967290 10"));
    CHECK(!parse("/run/pod\0a/bin/vm\0c1 5 1", sizeof "/run/pod\0a/bin/vm\0c1 5 1"));
}

CASE(there_are_limits_to_all_of_it)
{
    static const char words[] = {'a', 'c', 'd', 'e', 'g', 'h', 'k', 'l', 'r', 's', 't', 'y'};
    enum { MOST = RULES_MAX + 1 }; /* the largest of all limits is that of rules */
    static const char *const values[] = {"/x", "100000 9 1", "1:3:/n", "A=",   "/g",  "1:/h",
                                         "9",  "0 0 0",      "/r",     "1:/s", "9:t", "t:/y"};
    static char text[65536];
    for (size_t i = 0; i < sizeof words; i++) {
        size_t length = sizeof LEAST - 1, count = 0;
        memcpy(text, LEAST, length);
        while (count++ < MOST) {
            text[length++] = words[i];
            memcpy(text + length, values[i], strlen(values[i]) + 1);
            length += strlen(values[i]) + 1;
        }
        CHECK(!parse(text, length) || words[i] == 'e');
    }
}
