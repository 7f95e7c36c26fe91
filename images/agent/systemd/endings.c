/* SPDX-License-Identifier: Apache-2.0 */
/* See endings.h. */
#include "systemd/endings.h"

#include "kernel/cgroup.h"
#include "loop/exits.h"
#include "loop/loop.h"
#include "systemd/units.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { PENDING = 16 };

static int socket_fd = -1;
static bool watched;
/* Ends that were reported before the container was known to run: of those the unit's process was killed, or memory ended. */
static struct ending pending[PENDING];

int endings_listen(struct fault *why)
{
    socket_fd = packet_listen(ENDINGS, SOCK_DGRAM);
    return socket_fd < 0 ? fault_errno(why, "listen on " ENDINGS) : 0;
}

static struct ending *find(const char *id)
{
    for (struct ending *one = pending; one < pending + PENDING; one++)
        if (!strcmp(one->id, id))
            return one;
    return NULL;
}

static void remember(const struct ending *ending)
{
    static unsigned next;
    struct ending *free_one = find("");
    *(free_one ? free_one : &pending[next++ % PENDING]) = *ending;
}

bool endings_oom_killed(const char *container)
{
    struct ending *known = find(container);
    bool killed = known ? known->oom_killed : cgroup_oom_killed(container);
    if (known)
        known->id[0] = 0;
    return killed;
}

/* True when there is nothing to wait for any more. */
static bool settle(const struct ending *ending)
{
    const struct process *process = process_find(ending->id, 0);
    if (process && process->state == P_STARTING)
        return false;
    if (process && process->state == P_RUNNING)
        exit_reaped(process->pid, ending->status);
    return true;
}

static void take(struct ending *ending)
{
    ending->id[NAME_BYTES - 1] = 0;
    if (!ending->id[0])
        return;
    if (ending->pid && ending->oom_killed)
        remember(ending);
    if (ending->pid)
        exit_reaped(ending->pid, ending->status);
    else if (!settle(ending))
        remember(ending);
}

void endings_sync(void)
{
    struct ending ending;
    if (!watched) /* T_SIGNAL: it only has to wake the loop up */
        watched = watch(socket_fd, EPOLLIN, T_SIGNAL, 0) == 0;
    while (recv(socket_fd, &ending, sizeof ending, MSG_DONTWAIT) == sizeof ending)
        take(&ending);
    for (struct ending *one = pending; one < pending + PENDING; one++)
        if (one->id[0] && !one->pid && settle(one))
            one->id[0] = 0;
}
