/* SPDX-License-Identifier: Apache-2.0 */
/* The 20-byte header of a frame on the link (docs/dev/link.md). Pure. */
#ifndef CLEARPOD_FRAME_H
#define CLEARPOD_FRAME_H

#include <stdbool.h>
#include <stdint.h>

enum { FRAME_HEADER = 20, FRAME_MAX = 32768, DATA_MAX = 16384, INITIAL_CREDIT = 65536, MARKER_BYTES = 16 };
enum frame_kind { K_HELLO = 1, K_ACK, K_REQUEST, K_REPLY, K_EVENT, K_DATA, K_CREDIT };
enum { FLAG_END = 1 };

struct frame {
    uint32_t length; /* of the payload, bytes */
    uint8_t kind, flags;
    uint32_t stream;
    uint64_t seq;
};

extern const uint8_t first_marker[MARKER_BYTES];

void frame_pack(uint8_t to[FRAME_HEADER], const struct frame *frame);
/* False: no header that the rules allow. */
bool frame_unpack(const uint8_t from[FRAME_HEADER], struct frame *frame);
uint32_t get_u32(const uint8_t *from);
void put_u32(uint8_t *to, uint32_t value);

#endif
