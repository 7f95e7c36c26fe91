/* SPDX-License-Identifier: Apache-2.0 */
/* See connect.h. */
#include "helpers/connect.h"

#include "base/scope.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { CONNECT_LIMIT_S = 5 };

static int connect_to(const struct sockaddr *address, socklen_t size)
{
    const struct timeval limit = {.tv_sec = CONNECT_LIMIT_S};
    int on = 1;
    scoped_fd int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connect(fd, address, size) < 0 ? -1 : steal_fd(&fd);
}

int connect_port(const struct task *task, struct outcome *outcome, struct fault *why)
{
    struct sockaddr_in four = {
        .sin_family = AF_INET, .sin_port = htons(task->port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(task->port), .sin6_addr = in6addr_loopback};
    int error;
    outcome->fd = connect_to((struct sockaddr *)&four, sizeof four);
    error = errno == EINPROGRESS ? ETIMEDOUT : errno;
    if (outcome->fd < 0)
        outcome->fd = connect_to((struct sockaddr *)&six, sizeof six);
    if (outcome->fd >= 0)
        return 0;
    errno = error;
    return fault_errno(why, "connect to port %u of the pod's loopback", task->port);
}
