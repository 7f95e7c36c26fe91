/* SPDX-License-Identifier: Apache-2.0 */
/* See stream.h. */
#include "stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* What is read at once: usually one message or several, of a long one the beginning. */
static struct {
    char bytes[32 << 10];
    size_t at, end;
} ahead;

static int stream;
static size_t body_max;
static atomic_int waiting;
static unsigned under_way;
static pthread_mutex_t receiving = PTHREAD_MUTEX_INITIALIZER, sending = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_done = PTHREAD_COND_INITIALIZER;

void stream_begin(int fd, size_t room)
{
    stream = fd;
    body_max = room;
}

/* The guest's end may be gone before it has read all. */
static enum stream_result failed(void)
{
    return errno == EPIPE || errno == ECONNRESET ? STREAM_END : STREAM_FAILED;
}

static ssize_t read_some(char *bytes, size_t size)
{
    ssize_t got;
    do
        got = read(stream, bytes, size);
    while (got < 0 && errno == EINTR);
    return got;
}

/* At least `size` bytes, which are few, in `ahead`. */
static enum stream_result look_ahead(size_t size)
{
    memmove(ahead.bytes, ahead.bytes + ahead.at, ahead.end - ahead.at);
    ahead.end -= ahead.at;
    ahead.at = 0;
    while (ahead.end < size) {
        ssize_t got = read_some(ahead.bytes + ahead.end, sizeof ahead.bytes - ahead.end);
        if (got < 0)
            return failed();
        if (got == 0)
            return ahead.end ? STREAM_MALFORMED : STREAM_END;
        ahead.end += (size_t)got;
    }
    return STREAM_MESSAGE;
}

static enum stream_result take(char *bytes, size_t size)
{
    size_t have = ahead.end - ahead.at < size ? ahead.end - ahead.at : size;
    memcpy(bytes, ahead.bytes + ahead.at, have);
    ahead.at += have;
    while (have < size) {
        ssize_t got = read_some(bytes + have, size - have);
        if (got <= 0)
            return got < 0 ? failed() : STREAM_MALFORMED;
        have += (size_t)got;
    }
    return STREAM_MESSAGE;
}

static enum stream_result receive(uint32_t *volume, char *body, size_t *size)
{
    struct stream_header header;
    enum stream_result result = STREAM_MESSAGE;
    if (ahead.end - ahead.at < sizeof header)
        result = look_ahead(sizeof header);
    if (result != STREAM_MESSAGE)
        return result;
    take((char *)&header, sizeof header);
    if (header.length < sizeof header || header.length - sizeof header > body_max)
        return STREAM_MALFORMED;
    *volume = header.volume;
    *size = header.length - sizeof header;
    return take(body, *size);
}

enum stream_result stream_receive(uint32_t *volume, char *body, size_t *size)
{
    atomic_fetch_add(&waiting, 1);
    pthread_mutex_lock(&receiving);
    enum stream_result result = receive(volume, body, size);
    atomic_fetch_sub(&waiting, 1);
    pthread_mutex_lock(&counting);
    under_way += result == STREAM_MESSAGE;
    while (result == STREAM_END && under_way)
        pthread_cond_wait(&all_done, &counting);
    pthread_mutex_unlock(&counting);
    if (result == STREAM_MESSAGE) /* else nobody is to receive any more */
        pthread_mutex_unlock(&receiving);
    return result;
}

void stream_done(void)
{
    pthread_mutex_lock(&counting);
    if (--under_way == 0)
        pthread_cond_signal(&all_done);
    pthread_mutex_unlock(&counting);
}

int stream_waiting(void)
{
    return atomic_load(&waiting);
}

enum stream_result stream_send(uint32_t volume, char *message, size_t size)
{
    struct stream_header header = {(uint32_t)size, volume};
    memcpy(message, &header, sizeof header);
    pthread_mutex_lock(&sending);
    for (size_t sent = 0; sent < size;) {
        ssize_t some = write(stream, message + sent, size - sent);
        if (some < 0 && errno != EINTR) {
            enum stream_result result = failed();
            pthread_mutex_unlock(&sending);
            return result;
        }
        sent += some < 0 ? 0 : (size_t)some;
    }
    pthread_mutex_unlock(&sending);
    return STREAM_MESSAGE;
}
