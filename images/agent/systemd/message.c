/* SPDX-License-Identifier: Apache-2.0 */
/* See units.h: messages between the agent's helper, units and the agent. */
#include "units.h"

#include "scope.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(3 * sizeof(int))];
};

bool message_send(int socket, const void *from, size_t size, const int fds[3])
{
    union control control = {0};
    struct iovec piece = {(void *)(uintptr_t)from, size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    int given[3];
    size_t count = 0;
    for (int i = 0; fds && i < 3; i++)
        if (fds[i] >= 0)
            given[count++] = fds[i];
    if (count) {
        message.msg_control = control.room;
        message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int));
        control.header.cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), given, count * sizeof(int));
    }
    ssize_t sent;
    while ((sent = sendmsg(socket, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        continue;
    return sent == (ssize_t)size;
}

bool message_receive(int socket, void *to, size_t size, int fds[3])
{
    union control control = {0};
    struct iovec piece = {to, size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    ssize_t got;
    while ((got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        continue;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    for (int i = 0; i < 3; i++)
        fds[i] = -1;
    if (rights && rights->cmsg_type == SCM_RIGHTS)
        memcpy(fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
    return got == (ssize_t)size;
}

static int name_socket(const char *path, int type, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (snprintf(address->sun_path, sizeof address->sun_path, "%s", path) < (int)sizeof address->sun_path)
        return socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    errno = ENAMETOOLONG;
    return -1;
}

int message_listen(const char *path, int type)
{
    struct sockaddr_un address;
    scoped_fd int fd = name_socket(path, type, &address);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    if (type != SOCK_DGRAM && listen(fd, 1) < 0)
        return -1;
    return steal_fd(&fd);
}

int message_connect(const char *path, int type)
{
    struct sockaddr_un address;
    scoped_fd int fd = name_socket(path, type, &address);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    return steal_fd(&fd);
}
