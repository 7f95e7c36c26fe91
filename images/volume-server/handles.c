/* SPDX-License-Identifier: Apache-2.0 */
/* See handles.h. */
#include "handles.h"

#include <stdlib.h>
#include <unistd.h>

enum { CHUNK = 256 };

/* `next` is that of the unused places. */
struct slot {
    struct handle *handle;
    uint32_t generation, next;
};

static struct slot *chunks[HANDLES_MAX / CHUNK + 1];
static uint32_t unused, places, taken, limit;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void handles_begin(uint32_t most)
{
    limit = most < HANDLES_MAX ? most : HANDLES_MAX;
}

static struct slot *at(uint32_t place)
{
    return &chunks[place / CHUNK][place % CHUNK];
}

/* The functions below are called with the lock. */

static uint32_t take_place(void)
{
    uint32_t place = unused;
    if (taken == limit)
        return 0;
    if (place) {
        unused = at(place)->next;
    } else {
        struct slot **chunk = &chunks[(places + 1) / CHUNK];
        if (!*chunk && !(*chunk = calloc(CHUNK, sizeof **chunk)))
            return 0;
        place = ++places;
    }
    taken++;
    at(place)->generation++;
    return place;
}

static struct handle *find(uint32_t volume, uint64_t id, bool is_directory)
{
    uint32_t place = (uint32_t)id;
    if (place == 0 || place > places || at(place)->generation != id >> 32)
        return NULL;
    struct handle *handle = at(place)->handle;
    bool is_it = handle && !handle->is_closed && handle->volume == volume && handle->is_directory == is_directory;
    return is_it ? handle : NULL;
}

/* Out of the table when it is closed and unused; then the caller ends it. */
static struct handle *take_out(struct handle *handle)
{
    if (!handle->is_closed || handle->users)
        return NULL;
    at(handle->place)->handle = NULL;
    at(handle->place)->next = unused;
    unused = handle->place;
    taken--;
    return handle;
}

/* These are not. */

static void end(struct handle *handle)
{
    if (!handle)
        return;
    close(handle->fd);
    pthread_mutex_destroy(&handle->reading);
    free(handle->entries);
    free(handle);
}

uint64_t handles_add(uint32_t volume, int fd, bool is_directory)
{
    struct handle *handle = calloc(1, sizeof *handle);
    uint64_t id = 0;
    pthread_mutex_lock(&lock);
    uint32_t place = handle ? take_place() : 0;
    if (place) {
        *handle = (struct handle){.volume = volume, .place = place, .fd = fd, .is_directory = is_directory};
        pthread_mutex_init(&handle->reading, NULL);
        at(place)->handle = handle;
        id = (uint64_t)at(place)->generation << 32 | place;
    }
    pthread_mutex_unlock(&lock);
    if (!place) {
        free(handle);
        close(fd);
    }
    return id;
}

struct handle *handles_hold(uint32_t volume, uint64_t id, bool is_directory)
{
    pthread_mutex_lock(&lock);
    struct handle *handle = find(volume, id, is_directory);
    if (handle)
        handle->users++;
    pthread_mutex_unlock(&lock);
    return handle;
}

void handles_give_back(struct handle *handle)
{
    pthread_mutex_lock(&lock);
    handle->users--;
    struct handle *last = take_out(handle);
    pthread_mutex_unlock(&lock);
    end(last);
}

void handles_close(uint32_t volume, uint64_t id, bool is_directory)
{
    struct handle *last = NULL;
    pthread_mutex_lock(&lock);
    struct handle *handle = find(volume, id, is_directory);
    if (handle) {
        handle->is_closed = true;
        last = take_out(handle);
    }
    pthread_mutex_unlock(&lock);
    end(last);
}

void handles_drop(uint32_t volume)
{
    pthread_mutex_lock(&lock);
    for (uint32_t place = 1; place <= places; place++) {
        struct handle *handle = at(place)->handle;
        if (handle && handle->volume == volume) {
            handle->is_closed = true;
            end(take_out(handle));
        }
    }
    pthread_mutex_unlock(&lock);
}
