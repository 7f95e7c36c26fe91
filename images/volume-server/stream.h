/* SPDX-License-Identifier: Apache-2.0 */
/* The stream to the guest: messages with their length in front, each for a volume. Any thread may receive, and any may send. */
#ifndef CLEARPOD_STREAM_H
#define CLEARPOD_STREAM_H

#include <stddef.h>
#include <stdint.h>

/* In front of each message, little-endian as all machines that we run on. `length` counts these bytes too. */
struct stream_header {
    uint32_t length, volume;
};

enum stream_result { STREAM_MESSAGE, STREAM_END, STREAM_MALFORMED, STREAM_FAILED };

/* A body of at most `room` bytes is what a message may have. */
void stream_begin(int fd, size_t room);
/* Waits for the next message, which is under way until stream_done. At the end it waits for those that are. `body` is aligned for any
 * number. */
enum stream_result stream_receive(uint32_t *volume, char *body, size_t *size);
void stream_done(void);
/* `message` begins with room for the header; `size` is that of all. Returns STREAM_MESSAGE, or why it was not sent. */
enum stream_result stream_send(uint32_t volume, char *message, size_t size);
/* Whether nobody waits for a message. */
int stream_waiting(void);

#endif
