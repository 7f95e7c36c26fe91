/* SPDX-License-Identifier: Apache-2.0 */
/* See sockets.h. */
#include "kernel/sockets.h"

#include "base/files.h"
#include "base/scope.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static int option(int fd, int name)
{
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

/* Whether its own address is one that others can talk to. */
static bool is_outside(int fd)
{
    struct sockaddr_in6 at = {0};
    socklen_t size = sizeof at;
    if (getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        return false;
    uint32_t v4 = ((struct sockaddr_in *)&at)->sin_addr.s_addr;
    if (at.sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&at.sin6_addr))
        v4 = at.sin6_addr.s6_addr32[3];
    else if (at.sin6_family == AF_INET6)
        return !IN6_IS_ADDR_LOOPBACK(&at.sin6_addr) && !IN6_IS_ADDR_UNSPECIFIED(&at.sin6_addr);
    else if (at.sin6_family != AF_INET)
        return false;
    return v4 && *(uint8_t *)&v4 != IN_LOOPBACKNET;
}

bool sockets_exist(void)
{
    char text[512];
    /* Of TCP's line: those that the kernel has in memory, listening ones and others, in all namespaces. */
    return file_read("/proc/net/sockstat", text, sizeof text) < 0 || !strstr(text, " alloc 0 ");
}

int sockets_reset(pid_t pid, int unused)
{
    char path[32];
    scoped_fd int process = (int)syscall(SYS_pidfd_open, pid, 0);
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    scoped_dir DIR *list = opendir(path);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (*entry->d_name == '.')
            continue;
        scoped_fd int fd = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);
        if (fd >= 0 && option(fd, SO_TYPE) == SOCK_STREAM && !option(fd, SO_ACCEPTCONN) && is_outside(fd))
            connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
    }
    return unused;
}
