/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's memory begins at a huge page of the host: KVM maps huge pages where both addresses are aligned. Linux aligns large anonymous
 * mappings by itself since 6.7.
 */
#ifndef CLEARPOD_SHIM_ALIGN_H
#define CLEARPOD_SHIM_ALIGN_H

#include <stdbool.h>
#include <stddef.h>

/* mmap(2) of anonymous memory at any address. */
typedef void *anonymous_fn(size_t bytes, int protection, int flags);

/* Whether a mapping is private anonymous memory of whole huge pages, at an address that the kernel may choose. */
bool align_concerns(const void *address, size_t bytes, int flags);

/* Map such memory, by `map`, at a multiple of a huge page's size. Fails as mmap(2) does. */
void *align_map(anonymous_fn *map, size_t bytes, int protection, int flags);

#endif
