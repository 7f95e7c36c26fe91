/* SPDX-License-Identifier: Apache-2.0 */
/* See plan.h. */
#include "plan.h"

#include <ctype.h>
#include <stdlib.h>

static const uint64_t ADDRESS_END = 1ULL << 46; /* no x86 guest has more, and sums stay far from overflow */

uint64_t plan_slot_bytes(uint64_t bytes)
{
    return (bytes + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
}

bool plan_number(const char **text, uint64_t *value)
{
    char *end;
    int base = strncmp(*text, "0x", 2) == 0 ? 16 : 10;
    const char *digits = *text + (base == 16 ? 2 : 0);
    if (!isxdigit((unsigned char)*digits)) /* strtoull would take a sign or spaces */
        return false;
    errno = 0;
    *value = strtoull(digits, &end, base);
    *text = end;
    return errno == 0 && end != digits;
}

static bool take_place(const char *text, size_t length, struct place *place)
{
    const char *at = text;
    if (!plan_number(&at, &place->address) || *at++ != ':' || !plan_number(&at, &place->bytes) || *at++ != ':')
        return false;
    size_t rest = length - (size_t)(at - text);
    if (at > text + length || rest == 0 || rest >= sizeof place->path || *at != '/')
        return false;
    memcpy(place->path, at, rest);
    place->path[rest] = 0;
    return true;
}

static int check_place(const struct place *place, struct fault *why)
{
    if (place->address == 0 || place->address % SLOT_ALIGNMENT || place->address >= ADDRESS_END)
        return fault_set(why, "guest address %#llx for %s is not a multiple of 2 MiB below 64 TiB",
                         (unsigned long long)place->address, place->path);
    if (place->bytes == 0 || place->bytes % PAGE_BYTES || place->bytes >= ADDRESS_END)
        return fault_set(why, "%llu bytes for %s are not whole pages", (unsigned long long)place->bytes, place->path);
    return 0;
}

static bool places_overlap(const struct place *a, const struct place *b)
{
    return a->address < b->address + plan_slot_bytes(b->bytes) && b->address < a->address + plan_slot_bytes(a->bytes);
}

static int add_place(const char *text, size_t length, struct place *place, struct fault *why)
{
    if (!take_place(text, length, place))
        return fault_set(why, "'%.*s' is not ADDRESS:BYTES:/PATH", (int)length, text);
    return check_place(place, why);
}

static int parse_images(const char *text, struct plan *plan, struct fault *why)
{
    while (*text) {
        size_t length = strcspn(text, ",");
        if (plan->image_count == IMAGES_MAX)
            return fault_set(why, "more than %d images", IMAGES_MAX);
        if (add_place(text, length, &plan->images[plan->image_count++], why) < 0)
            return -1;
        text += length;
        text += *text == ',';
    }
    return 0;
}

static int check_overlaps(const struct plan *plan, struct fault *why)
{
    for (int i = 0; i < plan->image_count; i++) {
        if (plan->has_window && places_overlap(&plan->images[i], &plan->window))
            return fault_set(why, "%s overlaps the window", plan->images[i].path);
        for (int j = 0; j < i; j++)
            if (places_overlap(&plan->images[i], &plan->images[j]))
                return fault_set(why, "%s overlaps %s", plan->images[i].path, plan->images[j].path);
    }
    return 0;
}

int plan_parse(const char *images, const char *window, struct plan *plan, struct fault *why)
{
    memset(plan, 0, sizeof *plan);
    if (images && parse_images(images, plan, why) < 0)
        return -1;
    plan->has_window = window != NULL;
    if (window && add_place(window, strlen(window), &plan->window, why) < 0)
        return -1;
    return check_overlaps(plan, why);
}
