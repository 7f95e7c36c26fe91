/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call FILTER ABI NUMBER [ARGUMENT...]: makes one system call under a filter; the exit code is 0, or the number of the error. ABI is
 * x86-64, x32, i386 or thread (made by a second thread). call FILTER exec PROGRAM [WORD...] becomes another program.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { UNUSABLE = 200, MOST_LINES = 4096, ARGUMENTS = 6, X32 = 0x40000000 };

static struct sock_filter lines[MOST_LINES];

static void load(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes = read(fd, lines, sizeof lines);
    struct sock_fprog code = {.len = (unsigned short)(bytes / (ssize_t)sizeof *lines), .filter = lines};
    if (fd < 0 || bytes <= 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &code, 0, 0))
        _exit(UNUSABLE);
    close(fd);
}

static long as_i386(long number)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0L), "c"(0L), "d"(0L) : "memory");
    return result;
}

static long as_x86_64(long number, const long *values)
{
    return syscall(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}

static void *in_thread(void *values)
{
    long *number = values;
    return (void *)as_x86_64(*number, number + 1);
}

int main(int count, char **words)
{
    if (count < 4)
        return UNUSABLE;
    load(words[1]);
    if (!strcmp(words[2], "exec")) {
        execv(words[3], words + 3);
        return UNUSABLE;
    }
    long call[1 + ARGUMENTS] = {strtol(words[3], NULL, 0)}, result = -1;
    for (int i = 4; i < count && i < 4 + ARGUMENTS; i++)
        call[i - 3] = (long)strtoul(words[i], NULL, 0);
    pthread_t thread;
    if (!strcmp(words[2], "thread"))
        result = pthread_create(&thread, NULL, in_thread, call) || pthread_join(thread, (void **)&result) ? -1 : result;
    else if (!strcmp(words[2], "i386"))
        result = as_i386(call[0]);
    else
        result = as_x86_64(call[0] | (strcmp(words[2], "x32") ? 0 : X32), call + 1);
    _exit(result >= 0 ? 0 : errno);
}
