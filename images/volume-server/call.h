/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request of the guest's kernel, taken apart, and the place for its answer. The guest is hostile: what is taken is copied out of the
 * message and bounded by it; nothing in it is an address. Pure.
 */
#ifndef CLEARPOD_CALL_H
#define CLEARPOD_CALL_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONTENT_MAX = 256 << 10,          /* of one READ or WRITE: `max_write` of FUSE */
    BODY_MAX = 4096 + CONTENT_MAX,    /* of a message behind the stream's header */
    ANSWER_MAX = CONTENT_MAX,         /* behind the header of the answer */
    REQUEST_MALFORMED = -0x10000,     /* instead of -errno: the stream ends */
    REQUEST_WITHOUT_ANSWER = -0x10001 /* instead of 0 */
};

struct call {
    uint32_t volume;
    struct fuse_in_header in;
    const char *at, *end; /* arguments that nobody has taken yet */
    int node;             /* of `in.nodeid`: a descriptor of O_PATH, for operations that work on a node */
    uint32_t type;        /* its kind of file, S_IFMT */
    char *answer;         /* of ANSWER_MAX */
    size_t answer_size;
};

/* Takes the header of FUSE out of `size` bytes; false if it does not speak of just these. */
bool call_begin(struct call *call, const char *bytes, size_t size);
/* The next argument of a fixed size. */
bool call_take(struct call *call, void *into, size_t size);
/* The next argument that ends with a zero; NULL if there is no end. */
const char *call_take_text(struct call *call);
bool call_is_empty(const struct call *call);
/* A name in a directory: no path, not empty, neither `.` nor `..`. */
bool call_is_name(const char *text);
/* Puts `size` bytes into the answer. 0. */
int call_answer(struct call *call, const void *bytes, size_t size);

#endif
