/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes of nodes and of file systems. Each answers `call`: 0 or -errno, or one of REQUEST_*. */
#ifndef CLEARPOD_ATTRIBUTES_H
#define CLEARPOD_ATTRIBUTES_H

#include "call.h"

int attributes_get(struct call *call);
int attributes_set(struct call *call);
int attributes_statfs(struct call *call);
int attributes_getxattr(struct call *call);
int attributes_setxattr(struct call *call);
int attributes_listxattr(struct call *call);
int attributes_removexattr(struct call *call);

#endif
