/* SPDX-License-Identifier: Apache-2.0 */
/* See units.h. */
#include "systemd/units.h"

#include "base/scope.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

union control {
    struct cmsghdr header;
    char buffer[CMSG_SPACE(3 * sizeof(int))];
};

bool packet_send(int socket, const void *from, size_t size, const int fds[3])
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
        message.msg_control = control.buffer;
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

bool packet_receive(int socket, void *to, size_t size, int fds[3])
{
    union control control = {0};
    struct iovec piece = {to, size};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = sizeof control.buffer};
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

int packet_listen(const char *path, int type)
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

int packet_connect(const char *path, int type)
{
    struct sockaddr_un address;
    scoped_fd int fd = name_socket(path, type, &address);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    return steal_fd(&fd);
}

int unit_status(const char *code, const char *status)
{
    static const struct {
        const char *name;
        int number;
    } names[] = {{"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"ABRT", SIGABRT},
                 {"SEGV", SIGSEGV}, {"TERM", SIGTERM}, {"BUS", SIGBUS}};
    if (!code || !status || !strcmp(code, "exited"))
        return (status ? atoi(status) & 255 : 1) << 8;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, status))
            return names[i].number;
    return SIGKILL;
}
