/* SPDX-License-Identifier: Apache-2.0 */
/* What the VMM gives up, by the child in its root. False: see failure.h. */
#ifndef CLEARPOD_PRIVILEGES_H
#define CLEARPOD_PRIVILEGES_H

#include "description.h"

#include <stdbool.h>

/* Reads the filter of system calls; in the parent, whose file it is. */
bool privileges_read_filter(const struct description *description);
/* Makes the ruleset of Landlock as far as this kernel has it: `*ruleset` is -1 where it has none. */
bool privileges_make_ruleset(const struct description *description, int *ruleset);
/* Enters the user namespace `ids` as its id 0, and keeps nothing of what it does not need. */
bool privileges_give_up(const struct description *description, int ids, int ruleset);
/* The last thing: closes what is not to be handed on at the exec, and installs the filter. */
bool privileges_close(const struct description *description);

#endif
