/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what the host's bytes reach: frames, the ring's bookkeeping, requests. The first byte chooses the portions;
 * even inputs are put behind a good hello, so that the fuzzer need not find the marker.
 */
#include "link/link.h"
#include "link/message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct link link_;
static clearpod_agent_Request request;

static void on_request(uint32_t id, const uint8_t *payload, size_t size)
{
    struct fault why;
    static uint8_t reply[FRAME_MAX];
    bool fits;
    struct reply answer = {0};
    if (message_request(payload, size, &request, &why) < 0)
        answer.fault = &why;
    size_t length = message_reply(&answer, reply, sizeof reply, &fits);
    if (!fits || !link_send(&link_, &(struct frame){.length = (uint32_t)length, .kind = K_REPLY, .stream = id}, reply))
        link_fault(&link_);
}

static void on_data(uint32_t stream, bool end, const uint8_t *payload, size_t size)
{
    struct frame frame = {.length = (uint32_t)size, .kind = K_DATA, .flags = end, .stream = stream};
    link_send(&link_, &frame, payload); /* an echo fills the ring */
}

static void on_credit(uint32_t stream, uint32_t bytes)
{
    if (ring_data_of(&link_.ring, stream) > RING_BYTES || (stream == bytes && link_.state == LINK_HUNT))
        abort();
}

static void on_epoch(void)
{
}

static void on_clock(uint64_t unix_ns)
{
    (void)unix_ns;
}

static void drain(size_t most)
{
    struct iovec piece[2];
    int count;
    while (most && (count = link_output(&link_, piece)) > 0) {
        size_t size = piece[0].iov_len + (count > 1 ? piece[1].iov_len : 0);
        size = size < most ? size : most;
        link_written(&link_, size);
        most -= size;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct link_user user = {on_request, on_data, on_credit, on_epoch, on_clock};
    static const uint8_t hello[] = {0x12, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0x18, 1};
    if (size < 1)
        return 0;
    size_t portion = 1u + bytes[0] * 16u;
    memset(&link_, 0, offsetof(struct link, ring));
    link_init(&link_, &user);
    if (bytes[0] % 2 == 0) {
        struct iovec space = link_space(&link_);
        uint8_t *to = space.iov_base;
        memcpy(to, first_marker, MARKER_BYTES);
        frame_pack(to + MARKER_BYTES, &(struct frame){.length = sizeof hello, .kind = K_HELLO});
        memcpy(to + MARKER_BYTES + FRAME_HEADER, hello, sizeof hello);
        link_received(&link_, MARKER_BYTES + FRAME_HEADER + sizeof hello);
    }
    for (size_t at = 1; at < size;) {
        struct iovec space = link_space(&link_);
        size_t step = size - at < portion ? size - at : portion;
        step = step < space.iov_len ? step : space.iov_len;
        if (!step)
            abort();
        memcpy(space.iov_base, bytes + at, step);
        link_received(&link_, step);
        drain(portion * 3);
        at += step;
    }
    return 0;
}
