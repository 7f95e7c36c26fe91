/* SPDX-License-Identifier: Apache-2.0 */
/* Files for the shim's tests: made without a name, or in a directory of their own that goes at the end. */
#ifndef CLEARPOD_SHIM_SCENE_H
#define CLEARPOD_SHIM_SCENE_H

#include <stddef.h>

/* An unlinked file of `bytes`, each of them `fill`. */
int file_of(size_t bytes, int fill);
/* A path `name` in this run's directory. Valid until the next call. */
const char *path_of(const char *name);
/* A file there; returns its path. */
const char *file_at(const char *name, size_t bytes, int fill);
/* How many descriptors this process has. */
int descriptor_count(void);

#endif
