/* SPDX-License-Identifier: Apache-2.0 */
/* Part of cgroup.h: where the cgroups of containers are. Under systemd they are elsewhere: systemd/place.c. */
#include "cgroup.h"

#include <stdio.h>

void cgroup_path(char *to, size_t room, const char *container)
{
    snprintf(to, room, "/sys/fs/cgroup/clearpod%s%s", *container ? "/" : "", container);
}
