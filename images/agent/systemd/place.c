/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of ../place.c: systemd keeps the cgroup of each unit, and delegates it; crun's is below. */
#include "cgroup.h"

#include <stdio.h>

void cgroup_path(char *to, size_t room, const char *container)
{
    static const char all[] = "/sys/fs/cgroup/clearpod.slice";
    if (*container)
        snprintf(to, room, "%s/app@%s.service/%s", all, container, container);
    else
        snprintf(to, room, "%s", all);
}
