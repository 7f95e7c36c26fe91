/* SPDX-License-Identifier: Apache-2.0 */
/* See console.h. */
#include "console.h"

void record_pack(uint8_t to[RECORD_HEADER], enum record_kind kind, size_t size)
{
    to[0] = (uint8_t)kind;
    to[1] = 0;
    to[2] = (uint8_t)size;
    to[3] = (uint8_t)(size >> 8);
}

int record_unpack(const uint8_t from[RECORD_HEADER], enum record_kind *kind)
{
    int size = from[2] | from[3] << 8;
    *kind = (enum record_kind)from[0];
    return from[0] < R_OUT || from[0] > R_SIZE || from[1] || size > RECORD_MAX ? -1 : size;
}
