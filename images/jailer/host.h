/* SPDX-License-Identifier: Apache-2.0 */
/* What the jailer's parent does, still in the host's namespaces. False: see failure.h. */
#ifndef CLEARPOD_HOST_H
#define CLEARPOD_HOST_H

#include "description.h"

#include <stdbool.h>

/* Joins the network namespace, or makes one; opens the taps there, each at the number that the description has for it. */
bool host_enter_network(const struct description *description);
/* Limits hold from the first instruction: joins the cgroups before there is a child. */
bool host_join_cgroups(const struct description *description);
/* The memory killer's view: no part of the daemon, which it spares. */
bool host_set_oom_score(void);
/* Children to come are in these kinds of namespaces of the process that the description names, if it does. */
bool host_join(const struct description *description, int kinds);
/* A descriptor of that process' user namespace, else of a new one with the description's maps, which is nobody's yet; -1
 * when there can't be one. */
int host_make_user_namespace(const struct description *description);

#endif
