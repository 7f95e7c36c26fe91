/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on names in directories. Each answers `call`: 0 or -errno, or one of REQUEST_*. The call's node is a directory. */
#ifndef CLEARPOD_NAMES_H
#define CLEARPOD_NAMES_H

#include "call.h"

int names_lookup(struct call *call);
int names_mknod(struct call *call);
int names_mkdir(struct call *call);
int names_symlink(struct call *call);
int names_link(struct call *call);
int names_unlink(struct call *call);
int names_rmdir(struct call *call);
int names_rename(struct call *call);
int names_rename2(struct call *call);
int names_create(struct call *call);
int names_tmpfile(struct call *call);
/* Of a symbolic link. */
int names_readlink(struct call *call);

#endif
