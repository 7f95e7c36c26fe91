/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.proto in C: the only file besides the requests' own that knows nanopb. Pure; called by link.c and
 * requests.c. What can't be decoded is refused as a whole.
 */
#ifndef CLEARPOD_MESSAGE_H
#define CLEARPOD_MESSAGE_H

/* The C standard allows these names to be macros, and musl's have parentheses; the messages have fields of that name. */
#include <stdio.h>
#undef stdin
#undef stdout
#undef stderr

#include "agent.pb.h"
#include "base/fault.h"
#include "link/frame.h"

enum { LINK_VERSION = 1, STATS_AT_ONCE = 32 };

/* The part of our HELLO that the link does not know itself. */
struct link_facts {
    uint64_t boot_id, init_ns, ready_ns;
    char kernel[65];
    bool apparmor;
};

struct hello_in {
    uint8_t key[MARKER_BYTES];
    uint64_t epoch, received, unix_ns;
};

struct hello_out {
    uint64_t epoch, received, first;
    const struct link_facts *facts;
};

/* Gives container number `index`; false after the last. */
typedef bool (*container_at)(unsigned index, clearpod_agent_Container *container);

/* Numbers, as Stats asks for them. */
struct numbers {
    clearpod_agent_PodStats pod;
    unsigned count;
    clearpod_agent_ContainerStats containers[STATS_AT_ONCE];
};

struct reply {
    const struct fault *fault; /* NULL: OK */
    uint32_t pid;
    container_at containers;       /* NULL: none */
    const struct numbers *numbers; /* NULL: none */
};

bool message_hello_in(const uint8_t *bytes, size_t size, struct hello_in *hello);
size_t message_hello_out(const struct hello_out *hello, uint8_t *to, size_t capacity);
/*
 * Zeros, like memset, but only where there is something else: in a VM that is a copy of a template each page that is written
 * to takes memory, and nearly all of these messages is zeros. The size is a multiple of 8.
 */
void message_clear(void *message, size_t size);
int message_request(const uint8_t *bytes, size_t size, clearpod_agent_Request *request, struct fault *why);
/* Both return the size; 0 when `capacity` was too small (an empty Reply means OK, so `fits` distinguishes it). */
size_t message_reply(const struct reply *reply, uint8_t *to, size_t capacity, bool *fits);
size_t message_exited(const clearpod_agent_Exited *exited, uint8_t *to, size_t capacity);

#endif
