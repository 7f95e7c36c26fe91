/* SPDX-License-Identifier: Apache-2.0 */
/* See records.h. */
#include "records.h"

#include <string.h>

static const char mark[] = "\nclearpod-console\n";
enum { MARK = sizeof mark - 1 };

size_t records_room(struct records *records, uint8_t **to)
{
    *to = records->bytes + records->used;
    return sizeof records->bytes - records->used;
}

static void drop(struct records *records, size_t size)
{
    records->used -= size;
    memmove(records->bytes, records->bytes + size, records->used);
}

/* Keep the end of what the VMM and the kernel said: it is an error's only explanation. */
static void keep_early(struct records *records, size_t size)
{
    const uint8_t *from = records->bytes;
    size_t count = size;
    if (count > EARLY_MAX) {
        from += count - EARLY_MAX;
        count = EARLY_MAX;
    }
    if (records->early + count > EARLY_MAX) {
        size_t gone = records->early + count - EARLY_MAX;
        memmove(records->before, records->before + gone, records->early - gone);
        records->early -= gone;
    }
    memcpy(records->before + records->early, from, count);
    records->early += count;
    drop(records, size);
}

void records_received(struct records *records, size_t size)
{
    records->used += size;
    if (records->marked)
        return;
    uint8_t *found = memmem(records->bytes, records->used, mark, MARK);
    if (found) {
        keep_early(records, (size_t)(found - records->bytes));
        drop(records, MARK);
        records->marked = true;
    } else if (records->used > MARK) {
        keep_early(records, records->used - MARK);
    }
}

enum record_kind records_next(struct records *records, const uint8_t **payload, size_t *size)
{
    static uint8_t copy[RECORD_MAX];
    const uint8_t *head = records->bytes;
    if (!records->marked || records->broken || records->used < RECORD_HEADER)
        return R_NONE;
    size_t length = (size_t)(head[2] | head[3] << 8);
    enum record_kind kind = (enum record_kind)head[0];
    if (kind < R_OUT || kind > R_END || head[1] || length > RECORD_MAX) {
        records->broken = true;
        return R_NONE;
    }
    if (records->used < RECORD_HEADER + length)
        return R_NONE;
    memcpy(copy, head + RECORD_HEADER, length);
    drop(records, RECORD_HEADER + length);
    *payload = copy;
    *size = length;
    return kind;
}

void record_pack(uint8_t to[RECORD_HEADER], enum record_kind kind, size_t size)
{
    to[0] = (uint8_t)kind;
    to[1] = 0;
    to[2] = (uint8_t)size;
    to[3] = (uint8_t)(size >> 8);
}
