/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes of the host, each a FUSE file system whose server is on the host. `pump` carries their requests there. Two
 * containers with the same volume have the same file system, or its locks and sockets would not be theirs together.
 */
#ifndef CLEARPOD_VOLUMES_HOST_H
#define CLEARPOD_VOLUMES_HOST_H

#include "base/fault.h"

/*
 * Mount what the file host_volumes of the `bundle` lists, one name per line, each at /run/clearpod/hosts/NAME, unless it is
 * mounted; they are in use by the container `id` then. A line `port NUMBER` says that the host is reached by vsock. Without
 * such a file there is nothing to do.
 */
int host_volumes(const char *id, const char *bundle, struct fault *why);
/* The container uses them no more: unmount those that nobody uses. Idempotent. */
int host_volumes_drop(const char *id, struct fault *why);

#endif
