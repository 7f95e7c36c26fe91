/* SPDX-License-Identifier: Apache-2.0 */
/* See endpoint.h. */
#include "loop/endpoint.h"

#include "base/files.h"
#include "base/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
/* Needs sys/socket.h before it. */
#include <linux/vm_sockets.h>

#define PORTS "/sys/class/virtio-ports"

int open_serial(const char *port, int flags)
{
    scoped_dir DIR *list = opendir(PORTS);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        char path[300], name[32];
        snprintf(path, sizeof path, PORTS "/%s/name", entry->d_name);
        if (entry->d_name[0] == '.' || file_read(path, name, sizeof name) < 0)
            continue;
        name[strcspn(name, "\n")] = 0;
        if (strcmp(name, port) != 0)
            continue;
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | flags);
    }
    return -1;
}

int connect_vsock(unsigned port)
{
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    scoped_fd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&host, sizeof host) < 0 && errno != EINPROGRESS)
        return -1;
    return steal_fd(&fd);
}

int listen_vsock(unsigned port)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    scoped_fd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0)
        return -1;
    return steal_fd(&fd);
}

int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    scoped_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s", path) >= (int)sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0)
        return -1;
    return steal_fd(&fd);
}

int connection_state(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -1;
    errno = error;
    return error ? -1 : 0;
}
