/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes that both ends of the link must agree on: proto/vectors, whose README has the format. */
#include "check.h"
#include "link/link.h"
#include "link/message.h"

#include <pb_decode.h>
#include <pb_encode.h>
#include <string.h>

enum { CAPACITY = 1 << 16 };

struct row {
    char name[128], first[32], second[32];
    uint8_t bytes[CAPACITY];
    size_t size;
};

static struct row row;

static void read_hex(const char *text, struct row *to)
{
    to->size = 0;
    for (unsigned byte; *text != '-' && sscanf(text, "%2x", &byte) == 1; text += 2)
        to->bytes[to->size++] = (uint8_t)byte;
}

/* Calls `use` with each line of a file that has one or two words between the name and the bytes. */
static void each(const char *file, int words, void (*use)(void))
{
    static char line[2 * CAPACITY + 256], hex[2 * CAPACITY + 1];
    char path[512];
    int count = 0;
    snprintf(path, sizeof path, "%s/%s", vectors_dir, file);
    FILE *in = fopen(path, "r");
    if (!in) {
        printf("  not compared: there is no %s\n", path);
        return;
    }
    while (fgets(line, sizeof line, in)) {
        if (line[0] == '#' || line[0] == '\n')
            continue;
        int got = words == 1 ? sscanf(line, "%127s %31s %131072s", row.name, row.first, hex)
                             : sscanf(line, "%127s %31s %31s %131072s", row.name, row.first, row.second, hex);
        CHECK(got == words + 2);
        read_hex(hex, &row);
        use();
        count++;
    }
    fclose(in);
    printf("  %d lines\n", count);
    CHECK(count > 0);
}

static clearpod_agent_Container containers[64];
static unsigned container_count;

static bool take_container(pb_istream_t *in, const pb_field_t *field, void **arg)
{
    (void)field, (void)arg;
    CHECK(container_count < 64);
    return pb_decode(in, clearpod_agent_Container_fields, &containers[container_count++]);
}

static struct numbers numbers;

static bool take_stats(pb_istream_t *in, const pb_field_t *field, void **arg)
{
    (void)field, (void)arg;
    CHECK(numbers.count < STATS_AT_ONCE);
    return pb_decode(in, clearpod_agent_ContainerStats_fields, &numbers.containers[numbers.count++]);
}

static bool give_container(unsigned index, clearpod_agent_Container *to)
{
    if (index >= container_count)
        return false;
    *to = containers[index];
    return true;
}

/* Reply goes through our own encoder: it is the one message whose list has no array. */
static bool reply_again(uint8_t *to, size_t *size)
{
    struct fault fault;
    bool fits;
    clearpod_agent_Reply reply = clearpod_agent_Reply_init_zero;
    pb_istream_t in = pb_istream_from_buffer(row.bytes, row.size);
    container_count = numbers.count = 0;
    reply.containers.funcs.decode = take_container;
    reply.stats.funcs.decode = take_stats;
    if (!pb_decode(&in, clearpod_agent_Reply_fields, &reply))
        return false;
    fault.code = (enum fault_code)reply.code;
    memcpy(fault.text, reply.error, sizeof fault.text);
    numbers.pod = reply.pod;
    struct reply ours = {reply.code ? &fault : NULL, reply.pid, container_count ? give_container : NULL,
                         reply.has_pod ? &numbers : NULL};
    *size = message_reply(&ours, to, CAPACITY, &fits);
    return fits;
}

static bool decode_and_encode(const pb_msgdesc_t *fields, void *message, uint8_t *to, size_t *size)
{
    pb_istream_t in = pb_istream_from_buffer(row.bytes, row.size);
    pb_ostream_t out = pb_ostream_from_buffer(to, CAPACITY);
    if (!pb_decode(&in, fields, message) || !pb_encode(&out, fields, message))
        return false;
    *size = out.bytes_written;
    return true;
}

static bool again(const char *type, uint8_t *to, size_t *size)
{
    static union {
        clearpod_agent_Hello hello;
        clearpod_agent_Request request;
        clearpod_agent_Event event;
    } any;
    memset(&any, 0, sizeof any);
    if (!strcmp(type, "Reply"))
        return reply_again(to, size);
    if (!strcmp(type, "Request"))
        return decode_and_encode(clearpod_agent_Request_fields, &any, to, size);
    if (!strcmp(type, "Event"))
        return decode_and_encode(clearpod_agent_Event_fields, &any, to, size);
    CHECK(!strcmp(type, "Hello"));
    return decode_and_encode(clearpod_agent_Hello_fields, &any, to, size);
}

static void check_message(void)
{
    static uint8_t bytes[CAPACITY];
    size_t size = 0;
    bool refused = row.first[0] == '!';
    bool good = again(row.first + refused, bytes, &size);
    if (good == refused || (good && (size != row.size || memcmp(bytes, row.bytes, size)))) {
        fprintf(stderr, "  %s: %s\n", row.name, refused ? "was not refused" : "came out otherwise");
        exit(1);
    }
}

CASE(messages_come_out_as_the_same_bytes_or_are_refused)
{
    each("messages.txt", 1, check_message);
}

static void check_frame(void)
{
    static const char *const kinds[] = {"", "HELLO", "ACK", "REQUEST", "REPLY", "EVENT", "DATA", "CREDIT"};
    struct frame frame;
    uint8_t raw[FRAME_HEADER];
    bool good = frame_unpack(row.bytes, &frame);
    CHECK(good == (strcmp(row.first, "BAD") != 0));
    if (!good)
        return;
    CHECK(!strcmp(kinds[frame.kind], row.first) && frame.length == row.size - FRAME_HEADER);
    frame_pack(raw, &frame);
    CHECK(!memcmp(raw, row.bytes, FRAME_HEADER));
}

CASE(frames_have_the_headers_of_the_vectors)
{
    each("frames.txt", 1, check_frame);
}

static void nothing(void)
{
}

static void no_request(uint32_t id, const uint8_t *payload, size_t size)
{
    (void)id, (void)payload, (void)size;
}

static void no_data(uint32_t stream, bool end, const uint8_t *payload, size_t size)
{
    (void)stream, (void)end, (void)payload, (void)size;
}

static void no_credit(uint32_t stream, uint32_t bytes)
{
    (void)stream, (void)bytes;
}

static void no_clock(uint64_t unix_ns)
{
    (void)unix_ns;
}

static void check_stream(void)
{
    static const struct link_user user = {no_request, no_data, no_credit, nothing, no_clock};
    static struct link link_;
    for (size_t portion = 1; portion < row.size + 2; portion += portion < 64 ? 1 : 97) {
        memset(&link_, 0, sizeof link_);
        link_init(&link_, &user);
        link_.has_key = !strcmp(row.first, "KEYED");
        for (uint8_t i = 0; link_.has_key && i < MARKER_BYTES; i++)
            link_.key[i] = i;
        for (size_t done = 0; done < row.size;) {
            struct iovec space = link_space(&link_);
            size_t step = row.size - done < portion ? row.size - done : portion;
            step = step < space.iov_len ? step : space.iov_len;
            memcpy(space.iov_base, row.bytes + done, step);
            link_received(&link_, step);
            done += step;
        }
        if ((link_.state == LINK_OPEN) != !strcmp(row.second, "OPEN")) {
            fprintf(stderr, "  %s in portions of %zu: not %s\n", row.name, portion, row.second);
            exit(1);
        }
    }
}

CASE(streams_of_bytes_open_the_link_or_do_not)
{
    each("streams.txt", 2, check_stream);
}
