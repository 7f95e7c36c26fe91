/* SPDX-License-Identifier: Apache-2.0 */
/* What the environment asks for, read strictly. Pure: called by shim.c and window.c, does no I/O. */
#ifndef CLEARPOD_SHIM_PLAN_H
#define CLEARPOD_SHIM_PLAN_H

#include "fault.h"

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_BYTES = 4096, SLOT_ALIGNMENT = 2 << 20, IMAGES_MAX = 16 };

/* One `ADDRESS:BYTES:PATH`: guest-physical address, bytes of the file or the window, file or socket. */
struct place {
    uint64_t address, bytes;
    char path[512];
};

struct plan {
    struct place images[IMAGES_MAX], window;
    int image_count;
    bool has_window;
};

/* `images` is a list with commas, `window` one place; either may be NULL. -1: `why` says what is wrong. */
int plan_parse(const char *images, const char *window, struct plan *plan, struct fault *why);
/* The bytes of the slot for so many bytes of content. */
uint64_t plan_slot_bytes(uint64_t bytes);
/* Decimal or 0x hexadecimal at `*text`, which is moved behind it. False when there is none or it is too large. */
bool plan_number(const char **text, uint64_t *value);

#endif
