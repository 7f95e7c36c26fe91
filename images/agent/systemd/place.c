/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of ../place.c: systemd keeps the cgroup of each unit, and delegates it; crun's is below. */
#include "cgroup.h"
#include "units.h"

#include <stdio.h>
#include <string.h>

void cgroup_path(char *to, size_t room, const char *container)
{
    static const char all[] = "/sys/fs/cgroup/clearpod.slice";
    if (!strcmp(container, GUEST)) /* none of systemd's */
        snprintf(to, room, "/sys/fs/cgroup/clearpod.guest");
    else if (*container)
        snprintf(to, room, "%s/app@%s.service/%s", all, container, container);
    else
        snprintf(to, room, "%s", all);
}
