/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about frames, the ring and the link's state machine. A tiny host is played by the helpers. */
#include "check.h"
#include "link/link.h"
#include "link/message.h"

#include <pb_encode.h>
#include <string.h>

static struct link link_;
static uint8_t wire[RING_BYTES * 2];
static size_t wire_size;
static struct {
    int requests, epochs;
    uint32_t last_request, credit;
    size_t data;
    bool end;
} seen;

static void on_request(uint32_t id, const uint8_t *payload, size_t size)
{
    (void)payload, (void)size;
    seen.requests++;
    seen.last_request = id;
}

static void on_data(uint32_t stream, bool end, const uint8_t *payload, size_t size)
{
    (void)stream, (void)payload;
    seen.data += size;
    seen.end = end;
}

static void on_credit(uint32_t stream, uint32_t bytes)
{
    (void)stream;
    seen.credit += bytes;
}

static void on_epoch(void)
{
    seen.epochs++;
}

static void on_clock(uint64_t unix_ns)
{
    (void)unix_ns;
}

static const struct link_user user = {on_request, on_data, on_credit, on_epoch, on_clock};
static const uint8_t key[MARKER_BYTES] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static void begin(void)
{
    memset(&link_, 0, sizeof link_);
    memset(&seen, 0, sizeof seen);
    link_init(&link_, &user);
    wire_size = 0;
}

static void give(const void *bytes, size_t size, size_t portion)
{
    for (size_t done = 0; done < size;) {
        struct iovec space = link_space(&link_);
        size_t step = size - done < portion ? size - done : portion;
        CHECK(space.iov_len > 0);
        step = step < space.iov_len ? step : space.iov_len;
        memcpy(space.iov_base, (const uint8_t *)bytes + done, step);
        link_received(&link_, step);
        done += step;
    }
}

static size_t pack(uint8_t *to, const struct frame *frame, const void *payload)
{
    frame_pack(to, frame);
    if (frame->length)
        memcpy(to + FRAME_HEADER, payload, frame->length);
    return FRAME_HEADER + frame->length;
}

static size_t host_hello(uint8_t *to, const uint8_t *marker, uint64_t epoch, uint64_t received)
{
    uint8_t payload[256];
    clearpod_agent_Hello hello = clearpod_agent_Hello_init_zero;
    hello.version = 1;
    hello.key.size = MARKER_BYTES;
    memcpy(hello.key.bytes, key, MARKER_BYTES);
    hello.epoch = epoch;
    hello.received = received;
    hello.unix_ns = 1234567890123456789;
    pb_ostream_t out = pb_ostream_from_buffer(payload, sizeof payload);
    CHECK(pb_encode(&out, clearpod_agent_Hello_fields, &hello));
    memcpy(to, marker, MARKER_BYTES);
    struct frame frame = {.length = (uint32_t)out.bytes_written, .kind = K_HELLO};
    return MARKER_BYTES + pack(to + MARKER_BYTES, &frame, payload);
}

static void greet(const uint8_t *marker, uint64_t epoch, uint64_t received, size_t portion)
{
    uint8_t bytes[512];
    size_t size = host_hello(bytes, marker, epoch, received);
    give(bytes, size, portion);
}

static void send_frame(enum frame_kind kind, uint32_t stream, uint64_t seq, uint32_t length)
{
    static uint8_t bytes[FRAME_HEADER + FRAME_MAX], payload[FRAME_MAX];
    struct frame frame = {.length = length, .kind = (uint8_t)kind, .stream = stream, .seq = seq};
    give(bytes, pack(bytes, &frame, payload), sizeof bytes);
}

/* Everything the link wants to write, at most `limit` bytes of it. */
static size_t collect(size_t limit)
{
    struct iovec piece[2];
    int count;
    size_t before = wire_size;
    while (limit && (count = link_output(&link_, piece)) > 0) {
        size_t taken = 0;
        for (int i = 0; i < count && limit; i++) {
            size_t step = piece[i].iov_len < limit ? piece[i].iov_len : limit;
            memcpy(wire + wire_size, piece[i].iov_base, step);
            wire_size += step;
            taken += step;
            limit -= step;
        }
        link_written(&link_, taken);
    }
    return wire_size - before;
}

static struct frame frame_at(size_t at)
{
    struct frame frame;
    CHECK(at + FRAME_HEADER <= wire_size && frame_unpack(wire + at, &frame));
    return frame;
}

CASE(a_header_comes_back_as_it_went)
{
    uint8_t raw[FRAME_HEADER];
    struct frame in = {FRAME_MAX, K_DATA, FLAG_END, 0xfedcba98, 0x0123456789abcdef}, out;
    frame_pack(raw, &in);
    CHECK(frame_unpack(raw, &out) && !memcmp(&in, &out, sizeof in));
}

CASE(headers_that_the_rules_forbid_are_refused)
{
    uint8_t raw[FRAME_HEADER];
    struct frame out;
    frame_pack(raw, &(struct frame){.length = FRAME_MAX + 1, .kind = K_DATA});
    CHECK(!frame_unpack(raw, &out));
    frame_pack(raw, &(struct frame){.kind = 0});
    CHECK(!frame_unpack(raw, &out));
    frame_pack(raw, &(struct frame){.kind = K_CREDIT + 1});
    CHECK(!frame_unpack(raw, &out));
    frame_pack(raw, &(struct frame){.kind = K_ACK});
    raw[6] = 1;
    CHECK(!frame_unpack(raw, &out));
}

CASE(nothing_is_sent_before_the_host_has_sent_something)
{
    begin();
    CHECK(link_send(&link_, &(struct frame){.kind = K_EVENT}, NULL));
    CHECK(collect(1000) == 0);
    give("garbage that is no marker at all, and more of it", 48, 5);
    CHECK(link_.state == LINK_HUNT && collect(1000) == 0);
}

CASE(the_first_hello_is_answered_behind_the_first_marker_whatever_the_portions)
{
    for (size_t portion = 1; portion < 100; portion++) {
        begin();
        give("noise", 5, portion);
        greet(first_marker, 7, 0, portion);
        CHECK(link_.state == LINK_OPEN && link_.epoch == 7 && seen.epochs == 1);
        CHECK(collect(1000) > MARKER_BYTES + FRAME_HEADER);
        CHECK(!memcmp(wire, first_marker, MARKER_BYTES) && frame_at(MARKER_BYTES).kind == K_HELLO);
    }
}

CASE(a_host_that_says_hello_behind_both_markers_is_understood)
{
    for (size_t portion = 1; portion < 200; portion++) {
        uint8_t bytes[512];
        begin();
        size_t size = host_hello(bytes, first_marker, 1, 0);
        size += host_hello(bytes + size, key, 1, 0);
        give(bytes, size, portion);
        CHECK(link_.state == LINK_OPEN && seen.epochs == 1 && link_.reply_marker == link_.key);
        send_frame(K_REQUEST, 5, 1, 0);
        CHECK(seen.requests == 1 && link_.state == LINK_OPEN);
    }
}

CASE(a_copy_of_another_guest_takes_the_greeting_of_its_host_whatever_the_portions)
{
    static const uint8_t former[MARKER_BYTES] = {9, 9, 9, 9, 9, 9, 9, 9, 8, 8, 8, 8, 8, 8, 8, 8};
    for (size_t portion = 1; portion < 400; portion++) {
        uint8_t bytes[512];
        begin();
        memcpy(link_.key, former, sizeof former);
        link_.has_key = true;
        size_t size = host_hello(bytes, key, 1, 0);
        size += host_hello(bytes + size, former, 1, 0);
        size += host_hello(bytes + size, key, 1, 0);
        give(bytes, size, portion);
        CHECK(link_.state == LINK_OPEN && !link_.fault_due && seen.epochs == 1);
        send_frame(K_REQUEST, 5, 1, 0);
        CHECK(seen.requests == 1 && link_.state == LINK_OPEN);
    }
}

CASE(requests_count_once_and_a_gap_is_a_fault)
{
    begin();
    greet(first_marker, 1, 0, 512);
    send_frame(K_REQUEST, 9, 1, 10);
    send_frame(K_REQUEST, 9, 1, 10);
    CHECK(seen.requests == 1 && seen.last_request == 9);
    send_frame(K_REQUEST, 10, 2, 0);
    CHECK(seen.requests == 2);
    send_frame(K_REQUEST, 11, 4, 0);
    CHECK(seen.requests == 2 && link_.state == LINK_HUNT);
}

CASE(after_a_fault_the_host_is_made_to_notice_and_can_come_back)
{
    begin();
    greet(first_marker, 1, 0, 512);
    collect(1000);
    send_frame(K_EVENT, 0, 1, 0);
    CHECK(link_.state == LINK_HUNT);
    wire_size = 0;
    CHECK(collect(1000) == FRAME_HEADER && wire[4] == 0xff);
    send_frame(K_REQUEST, 1, 1, 0);
    CHECK(seen.requests == 0);
    greet(key, 1, 0, 7);
    CHECK(link_.state == LINK_OPEN);
    send_frame(K_REQUEST, 1, 2, 0); /* the EVENT had used up number 1 */
    CHECK(seen.requests == 1);
}

CASE(the_key_is_noticed_in_the_middle_of_a_frame)
{
    begin();
    greet(first_marker, 1, 0, 512);
    uint8_t half[FRAME_HEADER + 100] = {0};
    frame_pack(half, &(struct frame){.length = 5000, .kind = K_DATA, .stream = 3, .seq = 1});
    for (size_t portion = 1; portion < 60; portion++) {
        give(half, sizeof half, portion);
        CHECK(seen.data == 0);
        greet(key, 1, 0, portion);
        CHECK(link_.state == LINK_OPEN && link_.received == 0);
    }
    send_frame(K_DATA, 3, 1, 5000);
    CHECK(seen.data == 5000);
}

CASE(frames_are_sent_again_until_acknowledged_and_no_longer)
{
    begin();
    greet(first_marker, 1, 0, 512);
    for (int i = 0; i < 5; i++)
        CHECK(link_send(&link_, &(struct frame){.length = 10, .kind = K_DATA, .stream = 1}, "0123456789"));
    size_t hello = collect(20000) - 5 * (FRAME_HEADER + 10);
    CHECK(frame_at(hello).seq == 1);
    send_frame(K_ACK, 0, 2, 0);
    link_reconnected(&link_);
    wire_size = 0;
    greet(key, 1, 3, 512);
    size_t all = collect(20000);
    CHECK(frame_at(all - FRAME_HEADER - 10).seq == 5 && frame_at(all - 2 * (FRAME_HEADER + 10)).seq == 4);
    CHECK(link_.ring.first_seq == 3 && link_.ring.again_seq == 4); /* received is no ACK */
    greet(key, 1, 6, 512);
    CHECK(link_.state == LINK_HUNT);
    greet(key, 1, 3, 512);
    send_frame(K_ACK, 0, 5, 0);
    CHECK(ring_free(&link_.ring) == RING_BYTES);
    send_frame(K_ACK, 0, 6, 0);
    CHECK(link_.state == LINK_HUNT);
}

CASE(a_frame_that_is_half_written_is_finished_before_the_hello)
{
    static uint8_t payload[1000];
    begin();
    greet(first_marker, 1, 0, 512);
    size_t hello = collect(100000);
    CHECK(link_send(&link_, &(struct frame){.length = 1000, .kind = K_DATA, .stream = 1}, payload));
    collect(300);
    greet(key, 1, 1, 512); /* the host says that it has it: it must not go while it is being written */
    wire_size = 0;
    collect(100000);
    CHECK(!memcmp(wire + FRAME_HEADER + 1000 - 300, key, MARKER_BYTES));
    CHECK(frame_at(FRAME_HEADER + 1000 - 300 + MARKER_BYTES).kind == K_HELLO && hello > 0);
    send_frame(K_ACK, 0, 1, 0);
    CHECK(ring_free(&link_.ring) == RING_BYTES);
}

CASE(a_new_epoch_forgets_what_the_old_one_sent_and_keeps_what_it_received)
{
    begin();
    greet(first_marker, 1, 0, 512);
    send_frame(K_REQUEST, 1, 1, 0);
    CHECK(link_send(&link_, &(struct frame){.length = 4, .kind = K_CREDIT, .stream = 8}, "\1\0\0\0"));
    CHECK(link_send(&link_, &(struct frame){.length = 9, .kind = K_DATA, .stream = 8}, "something"));
    collect(100000);
    greet(key, 2, 0, 512);
    CHECK(seen.epochs == 2 && link_.received == 0 && ring_data_of(&link_.ring, 8) == 9);
    wire_size = 0;
    size_t all = collect(100000);
    CHECK(frame_at(all - 2 * FRAME_HEADER - 13).stream == 0); /* the credit was the old host's */
    send_frame(K_REQUEST, 1, 1, 0);
    CHECK(seen.requests == 2);
}

CASE(received_frames_are_acknowledged)
{
    begin();
    greet(first_marker, 1, 0, 512);
    collect(10000);
    send_frame(K_CREDIT, 1, 1, 4);
    send_frame(K_CREDIT, 1, 2, 4);
    wire_size = 0;
    CHECK(collect(1000) == FRAME_HEADER && frame_at(0).kind == K_ACK && frame_at(0).seq == 2);
    CHECK(collect(1000) == 0);
}

CASE(a_full_ring_refuses_and_wraps_without_a_scratch)
{
    static uint8_t payload[DATA_MAX];
    unsigned sent = 0, got = 0;
    begin();
    greet(first_marker, 1, 0, 512);
    collect(10000);
    for (int round = 0; round < 50; round++) {
        for (;;) {
            uint32_t length = 1 + (sent * 7919) % DATA_MAX;
            memset(payload, (int)sent, length);
            if (!link_send(&link_, &(struct frame){.length = length, .kind = K_DATA, .stream = sent}, payload))
                break;
            sent++;
        }
        wire_size = 0;
        collect(sizeof wire);
        for (size_t at = 0; at < wire_size; got++) {
            struct frame frame = frame_at(at);
            CHECK(frame.stream == got && frame.seq == got + 1);
            CHECK(wire[at + FRAME_HEADER] == (uint8_t)got &&
                  wire[at + FRAME_HEADER + frame.length - 1] == (uint8_t)got);
            at += FRAME_HEADER + frame.length;
        }
        send_frame(K_ACK, 0, got, 0);
    }
    CHECK(sent == got && sent > 500);
}
