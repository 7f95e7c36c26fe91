/* SPDX-License-Identifier: Apache-2.0 */
/* See ring.h. */
#include "link/ring.h"

#include <string.h>

static int pieces(struct ring *ring, uint64_t from, size_t size, struct iovec piece[2])
{
    size_t at = from % RING_BYTES, first = RING_BYTES - at < size ? RING_BYTES - at : size;
    piece[0] = (struct iovec){ring->bytes + at, first};
    piece[1] = (struct iovec){ring->bytes, size - first};
    return size == 0 ? 0 : first < size ? 2 : 1;
}

static void copy_in(struct ring *ring, uint64_t to, const void *from, size_t size)
{
    struct iovec piece[2];
    int count = pieces(ring, to, size, piece);
    for (int i = 0; i < count; i++) {
        memcpy(piece[i].iov_base, from, piece[i].iov_len);
        from = (const uint8_t *)from + piece[i].iov_len;
    }
}

static struct frame header_at(const struct ring *ring, uint64_t at)
{
    uint8_t raw[FRAME_HEADER];
    struct frame frame;
    for (size_t i = 0; i < FRAME_HEADER; i++)
        raw[i] = ring->bytes[(at + i) % RING_BYTES];
    frame_unpack(raw, &frame);
    return frame;
}

void ring_init(struct ring *ring)
{
    ring->tail = ring->sent = ring->head = ring->frame_start = 0;
    ring->first_seq = ring->next_seq = ring->again_seq = 1;
    ring->frame_left = 0;
}

size_t ring_free(const struct ring *ring)
{
    return RING_BYTES - (size_t)(ring->head - ring->tail);
}

int ring_space(struct ring *ring, size_t size, struct iovec piece[2])
{
    return pieces(ring, ring->head + FRAME_HEADER, size, piece);
}

void ring_commit(struct ring *ring, const struct frame *frame)
{
    uint8_t raw[FRAME_HEADER];
    struct frame numbered = *frame;
    numbered.seq = ring->next_seq++;
    frame_pack(raw, &numbered);
    copy_in(ring, ring->head, raw, FRAME_HEADER);
    ring->head += FRAME_HEADER + frame->length;
}

bool ring_put(struct ring *ring, const struct frame *frame, const void *payload)
{
    if (ring_free(ring) < (size_t)FRAME_HEADER + frame->length)
        return false;
    copy_in(ring, ring->head + FRAME_HEADER, payload, frame->length);
    ring_commit(ring, frame);
    return true;
}

bool ring_acknowledge(struct ring *ring, uint64_t seq)
{
    if (seq >= ring->next_seq)
        return false;
    while (ring->first_seq <= seq) {
        /* Its rest must still go out as it is, or the host would lose its place. The next ACK covers it. */
        if (ring->frame_left && ring->tail == ring->frame_start)
            break;
        ring->tail += FRAME_HEADER + header_at(ring, ring->tail).length;
        ring->first_seq++;
    }
    if (ring->sent < ring->tail)
        ring->sent = ring->tail;
    return true;
}

int ring_unsent(struct ring *ring, bool finish_frame_only, struct iovec piece[2])
{
    size_t size = (size_t)(ring->head - ring->sent);
    return pieces(ring, ring->sent, finish_frame_only ? ring->frame_left : size, piece);
}

void ring_written(struct ring *ring, size_t size)
{
    while (size) {
        if (!ring->frame_left) {
            ring->frame_start = ring->sent;
            ring->frame_left = FRAME_HEADER + header_at(ring, ring->sent).length;
        }
        size_t step = size < ring->frame_left ? size : ring->frame_left;
        ring->sent += step;
        ring->frame_left -= (uint32_t)step;
        size -= step;
    }
}

bool ring_rewind(struct ring *ring, uint64_t seq)
{
    if (seq >= ring->next_seq)
        return false;
    ring->sent = ring->tail;
    ring->again_seq = ring->first_seq;
    ring->frame_left = 0;
    for (; ring->again_seq <= seq; ring->again_seq++)
        ring->sent += FRAME_HEADER + header_at(ring, ring->sent).length;
    ring->frame_start = ring->sent;
    return true;
}

size_t ring_data_of(const struct ring *ring, uint32_t stream)
{
    size_t sum = 0;
    for (uint64_t at = ring->tail; at < ring->head;) {
        struct frame frame = header_at(ring, at);
        if (frame.kind == K_DATA && frame.stream == stream)
            sum += frame.length;
        at += FRAME_HEADER + frame.length;
    }
    return sum;
}

void ring_void_credits(struct ring *ring)
{
    static const uint8_t nobody[4];
    for (uint64_t at = ring->tail; at < ring->head;) {
        struct frame frame = header_at(ring, at);
        if (frame.kind == K_CREDIT)
            copy_in(ring, at + 8, nobody, sizeof nobody);
        at += FRAME_HEADER + frame.length;
    }
}
