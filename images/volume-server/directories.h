/* SPDX-License-Identifier: Apache-2.0 */
/* Directories that are open for reading. Each answers `call`: 0 or -errno, or one of REQUEST_*. */
#ifndef CLEARPOD_DIRECTORIES_H
#define CLEARPOD_DIRECTORIES_H

#include "call.h"

int directories_open(struct call *call);
/* Entries; and for READDIRPLUS what the guest would ask of each next. */
int directories_read(struct call *call);

#endif
