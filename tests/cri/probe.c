/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What no shell can ask of a kernel, asked from inside of a container: `/probe WORD...` prints a line for each word.
 * Built static and put into an image by test_security.py and test_mounts.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void report(const char *word, long result)
{
    const char *names[] = {[EPERM] = "EPERM",
                           [ENOSYS] = "ENOSYS",
                           [EINVAL] = "EINVAL",
                           [ENODEV] = "ENODEV",
                           [EAFNOSUPPORT] = "EAFNOSUPPORT",
                           [EFAULT] = "EFAULT",
                           [EROFS] = "EROFS"};
    if (result >= 0)
        printf("%s ok\n", word);
    else if ((size_t)errno < sizeof names / sizeof *names && names[errno])
        printf("%s %s\n", word, names[errno]);
    else
        printf("%s %s\n", word, strerror(errno));
}

static long clone_with(unsigned long flags)
{
    long pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        _exit(0);
    return pid;
}

static int open_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0 || ftruncate(fd, 4096) < 0)
        exit(9);
    return fd;
}

static long map_shared(const char *path)
{
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open_file(path), 0);
    return at == MAP_FAILED ? -1 : (at[0] = 'm', 0);
}

static long map_readable(const char *path, int how)
{
    return mmap(NULL, 4096, PROT_READ, how, open_file(path), 0) == MAP_FAILED ? -1 : 0;
}

static long lock(const char *path)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    return fcntl(open_file(path), F_SETLK, &range);
}

/* The names of what happens in the directory in half a second, of which we do one thing ourselves. */
static void watch(const char *directory)
{
    char events[4096], own[512];
    int fd = inotify_init1(IN_NONBLOCK);
    inotify_add_watch(fd, directory, IN_CREATE);
    printf("watching\n");
    fflush(stdout);
    for (int i = 0; i < 50 && access("/watch/host", F_OK); i++)
        usleep(100000);
    snprintf(own, sizeof own, "%s/guest", directory);
    close(open(own, O_CREAT | O_WRONLY, 0644));
    usleep(300000);
    ssize_t size = read(fd, events, sizeof events);
    for (ssize_t at = 0; at < size;) {
        struct inotify_event *event = (struct inotify_event *)(events + at);
        printf("event %s\n", event->name);
        at += (ssize_t)(sizeof *event + event->len);
    }
}

/* Of a file that is made in the directory. */
static long is_told(const char *directory)
{
    char event[512], own[512];
    int fd = inotify_init1(IN_NONBLOCK);
    inotify_add_watch(fd, directory, IN_CREATE);
    snprintf(own, sizeof own, "%s/told", directory);
    close(open(own, O_CREAT | O_WRONLY, 0644));
    return read(fd, event, sizeof event);
}

/* The names of what happens in the directory, until we are ended. */
static void tell_events(const char *directory)
{
    char events[4096];
    int fd = inotify_init1(0);
    inotify_add_watch(fd, directory, IN_ALL_EVENTS & ~(IN_OPEN | IN_ACCESS | IN_CLOSE_NOWRITE));
    for (ssize_t size; (size = read(fd, events, sizeof events)) > 0; fflush(stdout)) {
        for (ssize_t at = 0; at < size;) {
            struct inotify_event *event = (struct inotify_event *)(events + at);
            printf("event %s\n", event->len ? event->name : ".");
            at += (ssize_t)(sizeof *event + event->len);
        }
    }
}

/* The effective capabilities, as a number. */
static void effective(void)
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "CapEff:", 7))
            printf("%s", line);
    fclose(status);
}

/* Mode and owner of what a shell without `stat` can't see. */
static void owner(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        report(path, -1);
    else
        printf("%s %d:%d %o\n", path, (int)st.st_uid, (int)st.st_gid, st.st_mode & 07777);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *path = strchr(word, '/');
        if (!strcmp(word, "uid"))
            printf("Effective uid: %d\n", (int)geteuid());
        else if (!strcmp(word, "vsock"))
            report(word, socket(AF_VSOCK, SOCK_STREAM, 0));
        else if (!strcmp(word, "unix"))
            report(word, socket(AF_UNIX, SOCK_STREAM, 0));
        else if (!strcmp(word, "clone3"))
            report(word, syscall(SYS_clone3, NULL, 0));
        else if (!strcmp(word, "future"))
            report(word, syscall(1000));
        else if (!strcmp(word, "keyctl"))
            report(word, syscall(SYS_keyctl, 0, 0, 0, 0, 0));
        else if (!strcmp(word, "io_uring"))
            report(word, syscall(SYS_io_uring_setup, 1, NULL));
        else if (!strcmp(word, "unshare"))
            report(word, unshare(CLONE_NEWUSER));
        else if (!strcmp(word, "clone"))
            report(word, clone_with(0));
        else if (!strcmp(word, "clone-user"))
            report(word, clone_with(CLONE_NEWUSER));
        else if (!strcmp(word, "effective"))
            effective();
        else if (!strncmp(word, "owner:", 6))
            owner(path);
        else if (!strncmp(word, "shared:", 7))
            report("shared", map_shared(path));
        else if (!strncmp(word, "private:", 8))
            report("private", map_readable(path, MAP_PRIVATE));
        else if (!strncmp(word, "readable:", 9))
            report("readable", map_readable(path, MAP_SHARED));
        else if (!strncmp(word, "lock:", 5))
            report("lock", lock(path));
        else if (!strncmp(word, "unnamed:", 8))
            report("unnamed", open(path, O_RDWR | O_TMPFILE, 0600));
        else if (!strncmp(word, "allocate:", 9))
            report("allocate", fallocate(open_file(path), 0, 0, 8192));
        else if (!strncmp(word, "told:", 5))
            report("told", is_told(path));
        else if (!strncmp(word, "watch:", 6))
            watch(path);
        else if (!strncmp(word, "events:", 7))
            tell_events(path);
        else
            return 8;
        fflush(stdout);
    }
    return 0;
}
