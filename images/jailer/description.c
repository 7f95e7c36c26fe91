/* SPDX-License-Identifier: Apache-2.0 */
/* See description.h. */
#include "description.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Digits at `*text`, up to `most`; moves behind them and behind `end`, which must follow. */
static bool take_number(char **text, int base, uint64_t most, char end, uint64_t *value)
{
    char *behind;
    if (!isxdigit((unsigned char)**text)) /* strtoull would take a sign or spaces */
        return false;
    errno = 0;
    *value = strtoull(*text, &behind, base);
    if (errno || behind == *text || *value > most || *behind != end)
        return false;
    *text = behind + (end != 0);
    return true;
}

static bool take_path(const char *text, const char **path)
{
    *path = text;
    return *text == '/';
}

static bool take_argument(char *text, char **list, size_t *count)
{
    if (*count == ARGUMENTS_MAX)
        return false;
    list[(*count)++] = text;
    return true;
}

static bool take_place(char letter, const char *text, struct description *description)
{
    if (description->place_count == PLACES_MAX)
        return false;
    struct place *place = &description->places[description->place_count++];
    *place = (struct place){.writable = letter == 'v' || letter == 'w', .mapped = letter == 'm' || letter == 'v'};
    return take_path(text, &place->path);
}

static bool take_link(char *text, struct description *description)
{
    char *colon = strchr(text, ':');
    if (!colon || colon == text || description->link_count == FEW_MAX)
        return false;
    *colon = 0;
    struct link *link = &description->links[description->link_count++];
    link->target = text;
    return take_path(colon + 1, &link->path);
}

static bool take_device(char *text, struct description *description)
{
    uint64_t major, minor;
    if (description->device_count == FEW_MAX || !take_number(&text, 10, 4095, ':', &major) ||
        !take_number(&text, 10, (1 << 20) - 1, ':', &minor))
        return false;
    struct device *device = &description->devices[description->device_count++];
    device->major = (uint32_t)major;
    device->minor = (uint32_t)minor;
    return take_path(text, &device->path);
}

static bool take_numbered(char *text, int base, struct numbered *list, size_t *count, size_t most)
{
    if (*count == most || !take_number(&text, base, UINT64_MAX, ':', &list[*count].number) || !*text)
        return false;
    list[(*count)++].text = text;
    return true;
}

static bool is_descriptor(uint64_t number)
{
    return number > 2 && number < DESCRIPTOR_END;
}

static bool take_tap(char *text, struct description *description)
{
    return take_numbered(text, 10, description->taps, &description->tap_count, DESCRIPTORS_MAX) &&
           is_descriptor(description->taps[description->tap_count - 1].number);
}

static bool take_kept(char *text, struct description *description)
{
    uint64_t number;
    if (description->kept_count == DESCRIPTORS_MAX || !take_number(&text, 10, DESCRIPTOR_END, 0, &number))
        return false;
    description->kept[description->kept_count++] = (int)number;
    return is_descriptor(number);
}

static bool take_extent(char *text, struct description *description)
{
    uint64_t inside, outside, length;
    if (description->extent_count == EXTENTS_MAX || !take_number(&text, 10, UINT32_MAX, ' ', &inside) ||
        !take_number(&text, 10, UINT32_MAX, ' ', &outside) || !take_number(&text, 10, UINT32_MAX, 0, &length))
        return false;
    struct extent extent = {(uint32_t)inside, (uint32_t)outside, (uint32_t)length};
    description->extents[description->extent_count++] = extent;
    return length && inside + length <= UINT32_MAX && outside + length <= UINT32_MAX;
}

static bool take_limit(char *text, struct description *description)
{
    uint64_t resource, soft, hard;
    if (description->limit_count == FEW_MAX || !take_number(&text, 10, 15, ' ', &resource) ||
        !take_number(&text, 10, UINT64_MAX, ' ', &soft) || !take_number(&text, 10, UINT64_MAX, 0, &hard))
        return false;
    description->limits[description->limit_count++] = (struct limit){(int)resource, soft, hard};
    return soft <= hard;
}

static bool take_cgroup(const char *text, struct description *description)
{
    return description->cgroup_count < FEW_MAX && take_path(text, &description->cgroups[description->cgroup_count++]);
}

static bool take_flag(const char *text, bool *flag)
{
    *flag = true;
    return !*text;
}

static bool take_joined(char *text, struct description *description)
{
    uint64_t process;
    if (!take_number(&text, 10, INT32_MAX, 0, &process))
        return false;
    description->joined = (pid_t)process;
    return process > 1;
}

static bool take_netns(const char *text, struct description *description)
{
    description->netns = text;
    return !*text || *text == '/';
}

static bool take_hostname(const char *text, struct description *description)
{
    description->hostname = text;
    return *text != 0;
}

static bool take_item(char letter, char *text, struct description *description)
{
    switch (letter) {
    case 'a':
        return take_argument(text, description->argv, &description->arguments);
    case 'b':
        return take_flag(text, &description->small_pages);
    case 'c':
        return take_extent(text, description);
    case 'd':
        return take_device(text, description);
    case 'e':
        return take_argument(text, description->env, &description->variables);
    case 'f':
        return take_path(text, &description->filter);
    case 'g':
        return take_cgroup(text, description);
    case 'h':
        return take_numbered(text, 10, description->homes, &description->home_count, FEW_MAX);
    case 'j':
        return take_joined(text, description);
    case 'k':
        return take_kept(text, description);
    case 'l':
        return take_limit(text, description);
    case 'n':
        return take_netns(text, description);
    case 'p':
        return take_flag(text, &description->dies_with_parent);
    case 'm':
    case 'r':
    case 'v':
    case 'w':
        return take_place(letter, text, description);
    case 's':
        return take_numbered(text, 16, description->rules, &description->rule_count, RULES_MAX);
    case 't':
        return take_tap(text, description);
    case 'u':
        return take_hostname(text, description);
    case 'y':
        return take_link(text, description);
    case '/':
        return take_path(text - 1, &description->root);
    default:
        return false;
    }
}

bool description_outside(const struct description *description, uint32_t inside, uint32_t *outside)
{
    for (size_t i = 0; i < description->extent_count; i++) {
        const struct extent *extent = &description->extents[i];
        if (inside >= extent->inside && inside - extent->inside < extent->length) {
            *outside = extent->outside + (inside - extent->inside);
            return true;
        }
    }
    return false;
}

/* The VMM becomes id 0 of its user namespace, and the host's root must not be it. */
static bool makes_sense(const struct description *description)
{
    uint32_t owner;
    for (size_t i = 0; i < description->extent_count; i++)
        if (description->extents[i].outside == 0)
            return false;
    for (size_t i = 0; i < description->home_count; i++)
        if (*description->homes[i].text != '/')
            return false;
    for (size_t i = 0; i < description->rule_count; i++)
        if (*description->rules[i].text != '/')
            return false;
    return description->arguments && *description->argv[0] == '/' && description->root &&
           description_outside(description, 0, &owner);
}

bool description_parse(char *bytes, size_t size, struct description *description)
{
    memset(description, 0, sizeof *description);
    if (!size || bytes[size - 1])
        return false;
    for (char *item = bytes; item < bytes + size;) {
        char *next = item + strlen(item) + 1; /* a part of the item may be cut off below */
        if (!*item || !take_item(*item, item + 1, description))
            return false;
        item = next;
    }
    return makes_sense(description);
}
