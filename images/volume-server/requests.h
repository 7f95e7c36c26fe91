/* SPDX-License-Identifier: Apache-2.0 */
/* What to do with a message of the guest. Any thread may handle one. */
#ifndef CLEARPOD_REQUESTS_H
#define CLEARPOD_REQUESTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REPLY_MAX = 64 + (256 << 10) /* with the stream's header */ };

/* Writes the reply to `reply`, which has room for REPLY_MAX bytes and begins with room for the stream's header, and its size to
 * `reply_size`: 0 if there is none. False: the message is malformed. */
bool requests_handle(uint32_t volume, const char *body, size_t size, char *reply, size_t *reply_size);

/* Whether the guest is to be asked to forget files of the volume that nobody uses; `reply` is the message then. Not often. */
bool requests_are_to_ask(uint32_t volume, char *reply, size_t *reply_size);

#endif
