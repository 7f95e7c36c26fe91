/* SPDX-License-Identifier: Apache-2.0 */
/* The new root, made by the child with the host's mounts. */
#ifndef CLEARPOD_ROOT_H
#define CLEARPOD_ROOT_H

#include "description.h"

#include <stdbool.h>

/* Afterwards the root is `description->root`, with the description's places only; `ids` is the user namespace by which owners are
 * mapped. False: see failure.h. */
bool root_change(const struct description *description, int ids);
/* The root stays, as a copy of another one's, with the whole /proc. */
bool root_share(void);

#endif
