/* SPDX-License-Identifier: Apache-2.0 */
/* See records.h. */
#include "records.h"

#include <string.h>

static const char mark[] = "\nclearpod-console\n";
enum { MARK = sizeof mark - 1 };

size_t records_space(struct records *records, uint8_t **to)
{
    *to = records->bytes + records->used;
    return sizeof records->bytes - records->used;
}

static void drop(struct records *records, size_t size)
{
    records->used -= size;
    memmove(records->bytes, records->bytes + size, records->used);
}

/* Keep the end of the output of VMM and kernel: it is an error's only explanation. */
static void keep_output(struct records *records, size_t size)
{
    const uint8_t *from = records->bytes;
    size_t count = size;
    if (count > BEFORE_MAX) {
        from += count - BEFORE_MAX;
        count = BEFORE_MAX;
    }
    if (records->before_bytes + count > BEFORE_MAX) {
        size_t gone = records->before_bytes + count - BEFORE_MAX;
        memmove(records->before, records->before + gone, records->before_bytes - gone);
        records->before_bytes -= gone;
    }
    memcpy(records->before + records->before_bytes, from, count);
    records->before_bytes += count;
    drop(records, size);
}

void records_received(struct records *records, size_t size)
{
    records->used += size;
    if (records->marked || records->plain)
        return;
    uint8_t *at = memmem(records->bytes, records->used, mark, MARK);
    if (at) {
        keep_output(records, (size_t)(at - records->bytes));
        drop(records, MARK);
        records->marked = true;
    } else if (records->used > MARK) {
        keep_output(records, records->used - MARK);
    }
}

void records_over(struct records *records)
{
    if (!records->marked && !records->plain)
        keep_output(records, records->used);
}

/* A guest whose kernel writes in between, for one: better seen than lost, and the VMM must not be stuck. */
static enum record_kind take_raw(struct records *records, uint8_t *to, size_t *size)
{
    *size = records->used < RECORD_MAX ? records->used : RECORD_MAX;
    memcpy(to, records->bytes, *size);
    drop(records, *size);
    return !*size ? R_NONE : records->plain ? R_OUT : R_ERR;
}

enum record_kind records_next(struct records *records, const uint8_t **payload, size_t *size)
{
    static uint8_t copy[RECORD_MAX];
    const uint8_t *head = records->bytes;
    *payload = copy;
    records->log = 0;
    if (records->broken || records->plain)
        return take_raw(records, copy, size);
    if (!records->marked || records->used < RECORD_HEADER)
        return R_NONE;
    size_t length = (size_t)(head[2] | head[3] << 8);
    enum record_kind kind = (enum record_kind)head[0];
    if (kind < R_OUT || kind > R_END || (head[1] && kind > R_ERR) || length > RECORD_MAX) {
        records->broken = true;
        return take_raw(records, copy, size);
    }
    if (records->used < RECORD_HEADER + length)
        return R_NONE;
    records->log = head[1];
    memcpy(copy, head + RECORD_HEADER, length);
    drop(records, RECORD_HEADER + length);
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
