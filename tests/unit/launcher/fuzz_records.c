/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what the VMM's output reaches in the launcher: records of the guest's agent, in portions that the first byte
 * chooses. Every byte that comes must be given on, as output or as what came before the mark; none twice.
 */
#include "records.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct records records;

static size_t take_all(void)
{
    const uint8_t *payload;
    size_t size, taken = 0;
    volatile uint8_t sum = 0;
    enum record_kind kind;
    while ((kind = records_next(&records, &payload, &size)) != R_NONE) {
        if (kind > R_SIZE || size > sizeof records.bytes)
            abort();
        for (size_t i = 0; i < size; i++)
            sum = (uint8_t)(sum + payload[i]);
        taken += size;
    }
    return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char mark[] = "\nclearpod-console\n";
    size_t taken = 0;
    if (size < 1)
        return 0;
    size_t portion = 1u + bytes[0];
    memset(&records, 0, sizeof records);
    if (bytes[0] % 2 == 0) {
        uint8_t *to;
        records_space(&records, &to);
        memcpy(to, mark, sizeof mark - 1);
        records_received(&records, sizeof mark - 1);
        take_all();
    }
    for (size_t at = 1; at < size;) {
        uint8_t *to;
        size_t space = records_space(&records, &to), step = size - at < portion ? size - at : portion;
        if (!space || space > sizeof records.bytes)
            abort();
        step = step < space ? step : space;
        memcpy(to, bytes + at, step);
        records_received(&records, step);
        taken += take_all();
        at += step;
    }
    records_over(&records);
    taken += take_all();
    if (taken > size + sizeof mark || records.before_bytes > BEFORE_MAX)
        abort();
    return 0;
}
