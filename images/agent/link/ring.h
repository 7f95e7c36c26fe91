/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sequenced frames that the host has not acknowledged yet, in the order of their numbers. Pure.
 * Positions count bytes since boot and never wrap in practice; bytes live at position % RING_BYTES.
 */
#ifndef CLEARPOD_RING_H
#define CLEARPOD_RING_H

#include "link/frame.h"

#include <stddef.h>
#include <sys/uio.h>

enum { RING_BYTES = 256 * 1024 };

struct ring {
    uint64_t tail, sent, head;    /* oldest byte kept, next byte to write to the link, end */
    uint64_t first_seq, next_seq; /* of the frame at tail, of the next frame */
    uint64_t again_seq;           /* of the frame that the last rewind went to */
    uint64_t frame_start;         /* where the frame begins that `sent` is in */
    uint32_t frame_left;          /* bytes of that frame that are not written yet, 0 at a border of frames */
    uint8_t bytes[RING_BYTES];
};

void ring_init(struct ring *ring);
size_t ring_free(const struct ring *ring);
/* Where the payload of the next frame goes, `size` bytes, in one or two pieces; returns their number.
 * ring_commit then makes it a frame. The caller has looked at ring_free. */
int ring_space(struct ring *ring, size_t size, struct iovec piece[2]);
void ring_commit(struct ring *ring, const struct frame *frame);
/* Both in one; false when there is no room. seq is the ring's to choose. */
bool ring_put(struct ring *ring, const struct frame *frame, const void *payload);
/* Forget frames up to `seq`, save one that is written by half. False: such a frame was never made. */
bool ring_acknowledge(struct ring *ring, uint64_t seq);
/* What to write next: pieces of whole frames, or only the rest of the current one. */
int ring_unsent(struct ring *ring, bool finish_frame_only, struct iovec piece[2]);
void ring_written(struct ring *ring, size_t size);
/* Begin to send again behind frame `seq`, or at the oldest frame that is kept. False: there was no such frame. */
bool ring_rewind(struct ring *ring, uint64_t seq);
/* Bytes of DATA of a stream that are kept. */
size_t ring_data_of(const struct ring *ring, uint32_t stream);
/* Make CREDIT frames that are kept mean nothing: the host counts anew. */
void ring_void_credits(struct ring *ring);

#endif
