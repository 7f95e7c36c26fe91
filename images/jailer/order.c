/* SPDX-License-Identifier: Apache-2.0 */
/* See order.h. */
#include "order.h"

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

static bool take_place(char letter, const char *text, struct order *order)
{
    if (order->place_count == PLACES_MAX)
        return false;
    struct place *place = &order->places[order->place_count++];
    *place = (struct place){.writable = letter == 'v' || letter == 'w', .mapped = letter == 'm' || letter == 'v'};
    return take_path(text, &place->path);
}

static bool take_link(char *text, struct order *order)
{
    char *colon = strchr(text, ':');
    if (!colon || colon == text || order->link_count == FEW_MAX)
        return false;
    *colon = 0;
    struct link *link = &order->links[order->link_count++];
    link->target = text;
    return take_path(colon + 1, &link->path);
}

static bool take_device(char *text, struct order *order)
{
    uint64_t major, minor;
    if (order->device_count == FEW_MAX || !take_number(&text, 10, 4095, ':', &major) ||
        !take_number(&text, 10, (1 << 20) - 1, ':', &minor))
        return false;
    struct device *device = &order->devices[order->device_count++];
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

static bool take_tap(char *text, struct order *order)
{
    return take_numbered(text, 10, order->taps, &order->tap_count, DESCRIPTORS_MAX) &&
           is_descriptor(order->taps[order->tap_count - 1].number);
}

static bool take_kept(char *text, struct order *order)
{
    uint64_t number;
    if (order->kept_count == DESCRIPTORS_MAX || !take_number(&text, 10, DESCRIPTOR_END, 0, &number))
        return false;
    order->kept[order->kept_count++] = (int)number;
    return is_descriptor(number);
}

static bool take_extent(char *text, struct order *order)
{
    uint64_t inside, outside, length;
    if (order->extent_count == EXTENTS_MAX || !take_number(&text, 10, UINT32_MAX, ' ', &inside) ||
        !take_number(&text, 10, UINT32_MAX, ' ', &outside) || !take_number(&text, 10, UINT32_MAX, 0, &length))
        return false;
    struct extent extent = {(uint32_t)inside, (uint32_t)outside, (uint32_t)length};
    order->extents[order->extent_count++] = extent;
    return length && inside + length <= UINT32_MAX && outside + length <= UINT32_MAX;
}

static bool take_limit(char *text, struct order *order)
{
    uint64_t resource, soft, hard;
    if (order->limit_count == FEW_MAX || !take_number(&text, 10, 15, ' ', &resource) ||
        !take_number(&text, 10, UINT64_MAX, ' ', &soft) || !take_number(&text, 10, UINT64_MAX, 0, &hard))
        return false;
    order->limits[order->limit_count++] = (struct limit){(int)resource, soft, hard};
    return soft <= hard;
}

static bool take_cgroup(const char *text, struct order *order)
{
    return order->cgroup_count < FEW_MAX && take_path(text, &order->cgroups[order->cgroup_count++]);
}

static bool take_flag(const char *text, bool *flag)
{
    *flag = true;
    return !*text;
}

static bool take_netns(const char *text, struct order *order)
{
    order->netns = text;
    return !*text || *text == '/';
}

static bool take_hostname(const char *text, struct order *order)
{
    order->hostname = text;
    return *text != 0;
}

static bool take_word(char letter, char *text, struct order *order)
{
    switch (letter) {
    case 'a': return take_argument(text, order->argv, &order->arguments);
    case 'b': return take_flag(text, &order->small_pages);
    case 'c': return take_extent(text, order);
    case 'd': return take_device(text, order);
    case 'e': return take_argument(text, order->env, &order->variables);
    case 'f': return take_path(text, &order->filter);
    case 'g': return take_cgroup(text, order);
    case 'h': return take_numbered(text, 10, order->homes, &order->home_count, FEW_MAX);
    case 'k': return take_kept(text, order);
    case 'l': return take_limit(text, order);
    case 'n': return take_netns(text, order);
    case 'p': return take_flag(text, &order->dies_with_parent);
    case 'm':
    case 'r':
    case 'v':
    case 'w': return take_place(letter, text, order);
    case 's': return take_numbered(text, 16, order->rules, &order->rule_count, RULES_MAX);
    case 't': return take_tap(text, order);
    case 'u': return take_hostname(text, order);
    case 'y': return take_link(text, order);
    case '/': return take_path(text - 1, &order->root);
    default: return false;
    }
}

bool order_outside(const struct order *order, uint32_t inside, uint32_t *outside)
{
    for (size_t i = 0; i < order->extent_count; i++) {
        const struct extent *extent = &order->extents[i];
        if (inside >= extent->inside && inside - extent->inside < extent->length) {
            *outside = extent->outside + (inside - extent->inside);
            return true;
        }
    }
    return false;
}

/* The VMM becomes id 0 of its user namespace, and the host's root must not be it. */
static bool makes_sense(const struct order *order)
{
    uint32_t owner;
    for (size_t i = 0; i < order->extent_count; i++)
        if (order->extents[i].outside == 0)
            return false;
    for (size_t i = 0; i < order->home_count; i++)
        if (*order->homes[i].text != '/')
            return false;
    for (size_t i = 0; i < order->rule_count; i++)
        if (*order->rules[i].text != '/')
            return false;
    return order->arguments && *order->argv[0] == '/' && order->root && order_outside(order, 0, &owner);
}

bool order_parse(char *bytes, size_t size, struct order *order)
{
    memset(order, 0, sizeof *order);
    if (!size || bytes[size - 1])
        return false;
    for (char *word = bytes; word < bytes + size;) {
        char *next = word + strlen(word) + 1; /* a part of the word may be cut off below */
        if (!*word || !take_word(*word, word + 1, order))
            return false;
        word = next;
    }
    return makes_sense(order);
}
