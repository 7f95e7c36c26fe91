/* SPDX-License-Identifier: Apache-2.0 */
/* Small file jobs of the guest: whole files, directories, trees, paths that may not leave their root. */
#ifndef CLEARPOD_FILES_H
#define CLEARPOD_FILES_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Read at most capacity-1 bytes and end them with 0; returns the length, or -1 with errno. */
ssize_t file_read(const char *path, char *to, size_t capacity);
/* One write of all of `text` to a file that exists (a cgroup or sysctl); -1 with errno. */
int file_write(const char *path, const char *text);
/* How many bytes of a pipe, a socket or a terminal can be read now; 0 on an error. */
size_t unread_bytes(int fd);
/* 0 also when the directory is there. */
int make_dir(const char *path, mode_t mode);
/* openat2 below `root`; `how` is RESOLVE_IN_ROOT or RESOLVE_BENEATH. */
int open_below(int root, const char *path, int flags, unsigned long long how);
/* What is at `path` in the directory `root`, opened with `flags`; links lead within `root`. `make` makes and opens each
 * directory that is absent, `name` in the directory `above`, with `context` as given. -1 and errno. */
typedef int maker(int above, const char *name, const void *context);
int open_or_make(int root, const char *path, int flags, maker *make, const void *context);
/* Remove a directory with all below it, however deep; never crosses a mount. Idempotent. */
int remove_tree(const char *path, struct fault *why);
/* In a helper: close all descriptors from 3 on but these (-1: none), since a pipe would seem to be held. */
void close_all_but(const int *kept, size_t count);

#endif
