/* SPDX-License-Identifier: Apache-2.0 */
/* See message.h. */
#include "link/message.h"

#include <pb_decode.h>
#include <pb_encode.h>
#include <stdio.h>
#include <string.h>

bool message_hello_in(const uint8_t *bytes, size_t size, struct hello_in *hello)
{
    clearpod_agent_Hello message = clearpod_agent_Hello_init_zero;
    pb_istream_t in = pb_istream_from_buffer(bytes, size);
    if (!pb_decode_ex(&in, clearpod_agent_Hello_fields, &message, PB_DECODE_NOINIT)) /* it is all zeros */
        return false;
    if (message.key.size != MARKER_BYTES || message.epoch == 0)
        return false;
    memcpy(hello->key, message.key.bytes, MARKER_BYTES);
    hello->epoch = message.epoch;
    hello->received = message.received;
    hello->unix_ns = message.unix_ns;
    return true;
}

size_t message_hello_out(const struct hello_out *hello, uint8_t *to, size_t capacity)
{
    clearpod_agent_Hello message = clearpod_agent_Hello_init_zero;
    message.version = LINK_VERSION;
    message.epoch = hello->epoch;
    message.received = hello->received;
    message.first = hello->first;
    message.boot_id = hello->facts->boot_id;
    message.init_ns = hello->facts->init_ns;
    message.ready_ns = hello->facts->ready_ns;
    message.volumes = message.raw = message.guest_volumes = message.copies = true;
    message.apparmor = hello->facts->apparmor;
    snprintf(message.kernel, sizeof message.kernel, "%s", hello->facts->kernel);
    pb_ostream_t out = pb_ostream_from_buffer(to, capacity);
    return pb_encode(&out, clearpod_agent_Hello_fields, &message) ? out.bytes_written : 0;
}

void message_clear(void *message, size_t size)
{
    typedef uint64_t __attribute__((may_alias)) word;
    for (word *at = message, *end = at + size / sizeof *at; at < end; at++)
        if (*at)
            *at = 0;
}

int message_request(const uint8_t *bytes, size_t size, clearpod_agent_Request *request, struct fault *why)
{
    message_clear(request, sizeof *request);
    if (size && bytes[0] < 0x80) /* the operation's number: otherwise nanopb fills all of its place with zeros again */
        request->which_op = bytes[0] >> 3;
    pb_istream_t in = pb_istream_from_buffer(bytes, size);
    if (!pb_decode_ex(&in, clearpod_agent_Request_fields, request, PB_DECODE_NOINIT))
        return fault_set(why, FAULT_INVALID, "the request can't be read: %s", PB_GET_ERROR(&in));
    if (!request->which_op)
        return fault_set(why, FAULT_INVALID, "the request asks for nothing that this agent knows");
    return 0;
}

static bool encode_containers(pb_ostream_t *out, const pb_field_t *field, void *const *arg)
{
    const struct reply *reply = *arg;
    clearpod_agent_Container container;
    for (unsigned i = 0; reply->containers && reply->containers(i, &container); i++) {
        if (!pb_encode_tag_for_field(out, field))
            return false;
        if (!pb_encode_submessage(out, clearpod_agent_Container_fields, &container))
            return false;
    }
    return true;
}

static bool encode_stats(pb_ostream_t *out, const pb_field_t *field, void *const *arg)
{
    const struct numbers *numbers = ((const struct reply *)*arg)->numbers;
    for (unsigned i = 0; numbers && i < numbers->count; i++) {
        if (!pb_encode_tag_for_field(out, field))
            return false;
        if (!pb_encode_submessage(out, clearpod_agent_ContainerStats_fields, &numbers->containers[i]))
            return false;
    }
    return true;
}

size_t message_reply(const struct reply *reply, uint8_t *to, size_t capacity, bool *fits)
{
    clearpod_agent_Reply message = clearpod_agent_Reply_init_zero;
    message.pid = reply->pid;
    message.containers.funcs.encode = encode_containers;
    message.containers.arg = (void *)(uintptr_t)reply;
    message.stats.funcs.encode = encode_stats;
    message.stats.arg = (void *)(uintptr_t)reply;
    if ((message.has_pod = reply->numbers))
        message.pod = reply->numbers->pod;
    if (reply->fault) {
        message.code = (clearpod_agent_Code)reply->fault->code;
        snprintf(message.error, sizeof message.error, "%s", reply->fault->text);
    }
    pb_ostream_t out = pb_ostream_from_buffer(to, capacity);
    *fits = pb_encode(&out, clearpod_agent_Reply_fields, &message);
    return *fits ? out.bytes_written : 0;
}

size_t message_exited(const clearpod_agent_Exited *exited, uint8_t *to, size_t capacity)
{
    clearpod_agent_Event event = clearpod_agent_Event_init_zero;
    event.which_what = clearpod_agent_Event_exited_tag;
    event.what.exited = *exited;
    pb_ostream_t out = pb_ostream_from_buffer(to, capacity);
    return pb_encode(&out, clearpod_agent_Event_fields, &event) ? out.bytes_written : 0;
}
