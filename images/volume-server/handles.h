/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest has open: files by descriptors of their own, and directories, which are read from. Numbered as nodes are. */
#ifndef CLEARPOD_HANDLES_H
#define CLEARPOD_HANDLES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HANDLES_MAX = 1 << 16, ENTRIES_SIZE = 32 << 10 };

struct handle {
    uint32_t volume, place, users;
    int fd;
    bool is_directory, is_closed;
    /* Of a directory: entries that were read from the host and not yet asked for. `next` is the position of the first. */
    pthread_mutex_t reading;
    char *entries;
    uint64_t device;
    size_t entries_at, entries_end;
    int64_t next;
};

void handles_begin(uint32_t most);
/* Makes a handle of `fd`, which is taken; its number, or 0 when there is no room. */
uint64_t handles_add(uint32_t volume, int fd, bool is_directory);
/* The handle, which stays open until it is given back; NULL when there is none of that number and kind. */
struct handle *handles_hold(uint32_t volume, uint64_t id, bool is_directory);
void handles_give_back(struct handle *handle);
/* Closes it when the last user gives it back. */
void handles_close(uint32_t volume, uint64_t id, bool is_directory);
/* Closes all handles of a volume, of which nobody has one in use. */
void handles_drop(uint32_t volume);

#endif
