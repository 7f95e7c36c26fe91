/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's end of the link, without I/O: bytes in, calls to `user` out, and bytes to write (docs/dev/link.md).
 * loop/transport.c moves the bytes. Nothing here knows about processes or descriptors, so the fuzzer drives it alone.
 */
#ifndef CLEARPOD_LINK_H
#define CLEARPOD_LINK_H

#include "link/message.h"
#include "link/ring.h"

enum link_state { LINK_HUNT, LINK_HELLO, LINK_OPEN };

/* Callbacks of the link to its user. Payloads are only valid during the call. */
struct link_user {
    void (*request)(uint32_t id, const uint8_t *payload, size_t size);
    void (*data)(uint32_t stream, bool end, const uint8_t *payload, size_t size);
    void (*credit)(uint32_t stream, uint32_t bytes);
    void (*epoch)(void);             /* another host process has taken over */
    void (*clock)(uint64_t unix_ns); /* the host's clock, at each hello */
};

/* A marker only counts with a HELLO's header behind it: the key is also inside of the host's HELLO. */
enum { LINK_MARK = MARKER_BYTES + FRAME_HEADER };
enum { LINK_IN_BYTES = 2 * (FRAME_MAX + FRAME_HEADER), LINK_OUT_BYTES = 512 };

struct link {
    enum link_state state;
    const struct link_user *user;
    struct link_facts facts;
    bool has_key;
    bool answered; /* our HELLO is out on this connection: sequenced frames may follow */
    bool hello_due, fault_due;
    /* Within one page: the restoring host searches the guest's memory for it. */
    _Alignas(MARKER_BYTES) uint8_t key[MARKER_BYTES];
    const uint8_t *reply_marker; /* which marker our next HELLO follows */
    uint64_t epoch, received, acknowledged;
    uint64_t host_has; /* what the host's HELLO called received: where to go on, not an ACK */
    size_t base, end;  /* in[base..end) is not parsed; up to LINK_MARK - 1 before base are kept for the hunt */
    size_t out_at, out_end;
    struct ring ring;
    uint8_t in[LINK_IN_BYTES];
    uint8_t out[LINK_OUT_BYTES];
};

void link_init(struct link *link, const struct link_user *user);
/* Where to read to; the room is never 0. */
struct iovec link_space(struct link *link);
void link_received(struct link *link, size_t size);
/* What to write now; returns the number of pieces, 0 for nothing. Tell link_written what was taken. */
int link_output(struct link *link, struct iovec piece[2]);
void link_written(struct link *link, size_t size);
/* A new connection (vsock): what was half written is lost, and nothing goes out before the host has spoken. */
void link_reconnected(struct link *link);
/* Queue a sequenced frame; false when the ring is full. */
bool link_send(struct link *link, const struct frame *frame, const void *payload);
/* Something broke the rules: hunt for the marker and make the host notice. */
void link_fault(struct link *link);

#endif
