/* SPDX-License-Identifier: Apache-2.0 */
/* See link.h. */
#include "link/link.h"

#include <string.h>

enum { HELLO_MAX = 1024 };

static const uint8_t *marker(const struct link *link)
{
    return link->has_key ? link->key : first_marker;
}

void link_init(struct link *link, const struct link_user *user)
{
    link->state = LINK_HUNT;
    link->user = user;
    link->reply_marker = first_marker;
    ring_init(&link->ring);
}

struct iovec link_space(struct link *link)
{
    size_t keep = link->base < LINK_MARK - 1 ? link->base : LINK_MARK - 1;
    size_t from = link->base - keep;
    if (from) {
        memmove(link->in, link->in + from, link->end - from);
        link->base = keep;
        link->end -= from;
    }
    return (struct iovec){link->in + link->end, LINK_IN_BYTES - link->end};
}

void link_fault(struct link *link)
{
    link->state = LINK_HUNT;
    link->base = link->end;
    link->answered = false;
    link->fault_due = true;
}

/* Do these bytes (as many as there are) begin the header of a HELLO? All but its first two and its kind are 0, and a
 * protobuf message has no such zeros, so the key inside of a HELLO is never taken for a marker. */
static bool is_hello(const uint8_t *raw, size_t size)
{
    if (size > 1 && raw[0] + 256 * raw[1] > HELLO_MAX)
        return false;
    for (size_t i = 2; i < size && i < FRAME_HEADER; i++)
        if (raw[i] != (i == 4 ? K_HELLO : 0))
            return false;
    return true;
}

/* Look for the last marker at or after `from`: a HELLO follows it, and nothing before it counts any more. Returns
 * how far frames may be parsed: not into a marker whose header has not arrived yet. */
static size_t hunt(struct link *link, size_t from)
{
    const uint8_t *match;
    while ((match = memmem(link->in + from, link->end - from, marker(link), MARKER_BYTES))) {
        size_t at = (size_t)(match - link->in);
        bool counts = is_hello(match + MARKER_BYTES, link->end - at - MARKER_BYTES);
        if (counts && link->end - at < LINK_MARK)
            return at;
        if (counts) {
            link->base = at + MARKER_BYTES;
            link->state = LINK_HELLO;
        }
        from = at + 1;
    }
    return link->end;
}

static bool on_hello(struct link *link, const uint8_t *payload, size_t size)
{
    struct hello_in hello;
    if (!message_hello_in(payload, size, &hello))
        return false;
    if (hello.epoch == link->epoch && hello.received >= link->ring.next_seq)
        return false;
    link->reply_marker = link->has_key ? link->key : first_marker;
    memcpy(link->key, hello.key, MARKER_BYTES);
    link->has_key = true;
    link->host_has = hello.received;
    if (hello.epoch != link->epoch) {
        link->epoch = hello.epoch;
        link->host_has = 0;
        link->received = 0;
        ring_void_credits(&link->ring);
        link->user->epoch();
    }
    link->user->clock(hello.unix_ns);
    link->state = LINK_OPEN;
    link->acknowledged = link->received;
    link->hello_due = true;
    link->fault_due = false;
    link->answered = false;
    return true;
}

static bool on_sequenced(struct link *link, const struct frame *frame, const uint8_t *payload)
{
    if (frame->seq <= link->received)
        return true; /* resent; we have it */
    if (frame->seq != link->received + 1)
        return false;
    link->received++;
    switch (frame->kind) {
    case K_REQUEST:
        link->user->request(frame->stream, payload, frame->length);
        return link->state == LINK_OPEN;
    case K_DATA:
        link->user->data(frame->stream, frame->flags & FLAG_END, payload, frame->length);
        return true;
    case K_CREDIT:
        if (frame->length == 4)
            link->user->credit(frame->stream, get_u32(payload));
        return frame->length == 4;
    default:
        return false; /* the host neither replies nor reports events */
    }
}

static bool on_frame(struct link *link, const struct frame *frame, const uint8_t *payload)
{
    if ((link->state == LINK_HELLO) != (frame->kind == K_HELLO))
        return false;
    if (frame->kind == K_HELLO)
        return on_hello(link, payload, frame->length);
    if (frame->kind == K_ACK)
        return ring_acknowledge(&link->ring, frame->seq);
    return on_sequenced(link, frame, payload);
}

/* Parse one frame. False: there is no whole one below `limit`. */
static bool step(struct link *link, size_t *limit)
{
    struct frame frame;
    const uint8_t *payload = link->in + link->base + FRAME_HEADER;
    if (link->state == LINK_HUNT || link->base + FRAME_HEADER > *limit)
        return false;
    if (!frame_unpack(link->in + link->base, &frame)) {
        link_fault(link);
        return false;
    }
    if (link->base + FRAME_HEADER + frame.length > *limit)
        return false;
    uint8_t former[MARKER_BYTES];
    memcpy(former, marker(link), MARKER_BYTES);
    link->base += FRAME_HEADER + frame.length;
    if (!on_frame(link, &frame, payload)) {
        link_fault(link);
        return false;
    }
    /* A host that can't know which marker we have sends a hello behind both; a copy of another guest has that one's key. */
    if (memcmp(former, marker(link), MARKER_BYTES) != 0)
        *limit = hunt(link, link->base);
    return true;
}

void link_received(struct link *link, size_t size)
{
    size_t known = link->end < LINK_MARK - 1 ? link->end : LINK_MARK - 1;
    size_t from = link->end - known;
    link->end += size;
    size_t limit = hunt(link, from);
    while (step(link, &limit))
        continue;
    if (link->state == LINK_HUNT)
        link->base = link->end;
}

/* An impossible header: it makes the host start again at its marker. */
static void write_fault(struct link *link)
{
    memset(link->out, 0xff, FRAME_HEADER);
    link->out_end = FRAME_HEADER;
    link->fault_due = false;
}

static void write_hello(struct link *link)
{
    memcpy(link->out, link->reply_marker, MARKER_BYTES);
    ring_rewind(&link->ring, link->host_has);
    struct hello_out hello = {link->epoch, link->received, link->ring.again_seq, &link->facts};
    size_t size = message_hello_out(&hello, link->out + MARKER_BYTES + FRAME_HEADER,
                                    LINK_OUT_BYTES - MARKER_BYTES - FRAME_HEADER);
    frame_pack(link->out + MARKER_BYTES, &(struct frame){.length = (uint32_t)size, .kind = K_HELLO});
    link->out_end = MARKER_BYTES + FRAME_HEADER + size;
    link->hello_due = false;
    link->answered = true;
}

static void write_ack(struct link *link)
{
    link->acknowledged = link->received;
    frame_pack(link->out, &(struct frame){.kind = K_ACK, .seq = link->received});
    link->out_end = FRAME_HEADER;
}

int link_output(struct link *link, struct iovec piece[2])
{
    if (link->out_at == link->out_end) {
        link->out_at = link->out_end = 0;
        if (link->ring.frame_left)
            return ring_unsent(&link->ring, true, piece);
        if (link->fault_due)
            write_fault(link);
        else if (link->hello_due)
            write_hello(link);
        else if (link->answered && link->received != link->acknowledged)
            write_ack(link);
        else
            return link->answered ? ring_unsent(&link->ring, false, piece) : 0;
    }
    piece[0] = (struct iovec){link->out + link->out_at, link->out_end - link->out_at};
    return 1;
}

void link_written(struct link *link, size_t size)
{
    if (link->out_at < link->out_end)
        link->out_at += size;
    else
        ring_written(&link->ring, size);
}

void link_reconnected(struct link *link)
{
    link->state = LINK_HUNT;
    link->base = link->end = link->out_at = link->out_end = 0;
    link->hello_due = link->fault_due = link->answered = false;
    ring_rewind(&link->ring, 0);
}

bool link_send(struct link *link, const struct frame *frame, const void *payload)
{
    return ring_put(&link->ring, frame, payload);
}
