/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's memory begins at a huge page of the host: KVM maps huge pages where both addresses are aligned. Linux aligns large anonymous
 * mappings by itself since 6.7.
 */
#ifndef CLEARPOD_SHIM_ALIGN_H
#define CLEARPOD_SHIM_ALIGN_H

#include <stddef.h>
#include <sys/types.h>

typedef void *mapping_fn(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);

/* Like mmap(2), which is `real`; private anonymous memory of whole huge pages at any address begins at a multiple of their size. */
void *align_map(mapping_fn *real, void *address, size_t bytes, int protection, int flags, int fd, off_t offset);

#endif
