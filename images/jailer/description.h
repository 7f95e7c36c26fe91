/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launch description: what to start, and around it the jail. stage1/vm/jail.py writes it, the table of its items is in
 * README.md. Parsing is pure, for main.c, the unit tests and the fuzzer.
 */
#ifndef CLEARPOD_DESCRIPTION_H
#define CLEARPOD_DESCRIPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    ARGUMENTS_MAX = 512,
    PLACES_MAX = 512,
    RULES_MAX = 640,
    FEW_MAX = 16,
    DESCRIPTORS_MAX = 32,
    EXTENTS_MAX = 340, /* as many lines as the kernel takes in a uid_map */
    DESCRIPTOR_END = 1024
};

/* `mapped`: the owners of its files are shown as the VMM's user namespace maps them; what is mounted below keeps its own. */
struct place {
    const char *path;
    bool writable, mapped;
};

/* A number and a text: `rights:path` of a rule, `bytes:path` of a small file system, `fd:name` of a tap. */
struct numbered {
    uint64_t number;
    const char *text;
};

struct device {
    uint32_t major, minor;
    const char *path;
};

struct link {
    const char *target, *path;
};

struct extent {
    uint32_t inside, outside, length;
};

struct limit {
    int resource;
    uint64_t soft, hard;
};

/* Texts belong to the parsed bytes. Absent texts are NULL; an empty `netns` asks for a new one. */
struct description {
    char *argv[ARGUMENTS_MAX + 1], *env[ARGUMENTS_MAX + 1];
    size_t arguments, variables;
    const char *root, *netns, *filter, *hostname;
    const char *cgroups[FEW_MAX];
    size_t cgroup_count;
    struct place places[PLACES_MAX];
    size_t place_count;
    struct link links[FEW_MAX];
    size_t link_count;
    struct device devices[FEW_MAX];
    size_t device_count;
    struct numbered homes[FEW_MAX];
    size_t home_count;
    struct numbered rules[RULES_MAX];
    size_t rule_count;
    struct numbered taps[DESCRIPTORS_MAX];
    size_t tap_count;
    int kept[DESCRIPTORS_MAX];
    size_t kept_count;
    struct extent extents[EXTENTS_MAX];
    size_t extent_count;
    struct limit limits[FEW_MAX];
    size_t limit_count;
    bool dies_with_parent, small_pages;
    pid_t joined; /* the process whose namespaces it shares, 0 for its own */
};

/* Takes `bytes` apart in place; they must stay. False: they are not a launch description, and `description` is undefined. */
bool description_parse(char *bytes, size_t size, struct description *description);
/* The host's id of the id `inside`; false when no extent has it. */
bool description_outside(const struct description *description, uint32_t inside, uint32_t *outside);

#endif
