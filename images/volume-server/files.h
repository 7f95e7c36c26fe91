/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on open files, by their handles. Each answers `call`: 0 or -errno, or one of REQUEST_*. */
#ifndef CLEARPOD_FILES_H
#define CLEARPOD_FILES_H

#include "call.h"

/* What of the guest's flags the host opens a file with. */
uint32_t files_flags(uint32_t asked);
/* FOPEN_* that count for each file of its file system. */
uint32_t files_ways(int fd);
/* Takes the bits away by which a program gets its owner's rights, before its content changes. 0 or -errno. */
int files_drop_rights(int fd);

int files_open(struct call *call);
int files_read(struct call *call);
int files_write(struct call *call);
int files_flush(struct call *call);
int files_release(struct call *call);
int files_fsync(struct call *call);
int files_fallocate(struct call *call);
int files_lseek(struct call *call);
int files_copy_file_range(struct call *call);

#endif
