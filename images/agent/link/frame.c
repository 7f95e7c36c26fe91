/* SPDX-License-Identifier: Apache-2.0 */
/* See frame.h. */
#include "link/frame.h"

const uint8_t first_marker[MARKER_BYTES] = {0,   'c', 'l', 'e', 'a', 'r', 'p', 'o',
                                            'd', '-', 'l', 'i', 'n', 'k', 1,   '\n'};

uint32_t get_u32(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

void put_u32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

void frame_pack(uint8_t to[FRAME_HEADER], const struct frame *frame)
{
    put_u32(to, frame->length);
    to[4] = frame->kind;
    to[5] = frame->flags;
    to[6] = to[7] = 0;
    put_u32(to + 8, frame->stream);
    put_u32(to + 12, (uint32_t)frame->seq);
    put_u32(to + 16, (uint32_t)(frame->seq >> 32));
}

bool frame_unpack(const uint8_t from[FRAME_HEADER], struct frame *frame)
{
    *frame = (struct frame){
        .length = get_u32(from),
        .kind = from[4],
        .flags = from[5],
        .stream = get_u32(from + 8),
        .seq = get_u32(from + 12) | (uint64_t)get_u32(from + 16) << 32,
    };
    return frame->length <= FRAME_MAX && frame->kind >= K_HELLO && frame->kind <= K_CREDIT && !from[6] && !from[7];
}
