/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the jailer share. A function that returns false has set the reason with `failed`, and undoes nothing: the
 * process ends, and what it has made ends with it.
 */
#ifndef CLEARPOD_JAILER_H
#define CLEARPOD_JAILER_H

#include "description.h"

#include <stdbool.h>
#include <sys/types.h>

enum { FAILED = 254, SENTENCE_MAX = 512 };

/* Why something failed: `what value: errno`. Returns false. The first one of a process stays. */
bool failed(const char *what, const char *value);
const char *failure(void);

/* host.c: the parent, still in the host's namespaces. */

/* Joins the network namespace, or makes one; opens the taps there, each at the number that the description has for it. */
bool host_enter_network(const struct description *description);
/* Limits hold from the first instruction: joins the cgroups before there is a child. */
bool host_join_cgroups(const struct description *description);
/* The memory killer's view: no part of the daemon, which it spares. */
bool host_set_oom_score(void);
/* A descriptor of a new user namespace with the description's maps, which is nobody's yet; -1 when there can't be one. */
int host_make_user_namespace(const struct description *description);

/* root.c: the child, with the host's mounts. Afterwards its root is `description->root`, with the description's places only; `ids` is the
 * user namespace by which owners are mapped. */
bool root_change(const struct description *description, int ids);

/* privileges.c: the child, in its root. */

/* Reads the filter of system calls; in the parent, whose file it is. */
bool privileges_read_filter(const struct description *description);
/* Makes the ruleset of Landlock as far as this kernel has it: `*ruleset` is -1 where it has none. */
bool privileges_make_ruleset(const struct description *description, int *ruleset);
/* Enters the user namespace `ids` as its id 0, and keeps nothing of what it does not need. */
bool privileges_give_up(const struct description *description, int ids, int ruleset);
/* The last thing: closes what is not to be handed on at the exec, and installs the filter. */
bool privileges_close(const struct description *description);

#endif
