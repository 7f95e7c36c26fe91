/* SPDX-License-Identifier: Apache-2.0 */
/* The filter, each time in a process that it may be put on. */
#include "filter.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* How a process ends that is filtered and then asks `question`: 0 if the answer is yes. */
static int status_of(bool (*question)(void))
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(filter_install() < 0 ? 3 : question() ? 0 : 1);
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static bool refuses(long result)
{
    return result < 0 && errno == EPERM;
}

static bool no_other_program(void)
{
    char *const words[] = {(char *)(uintptr_t) "/bin/true", NULL};
    return refuses(execve(words[0], words, words + 1)) && refuses(syscall(SYS_execveat, -1, words[0], words, words + 1, 0));
}

static bool no_other_process(void)
{
    return refuses(fork()) && refuses(syscall(SYS_vfork)) && refuses(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) &&
           syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS && refuses(syscall(SYS_ptrace, 0, 0, 0, 0));
}

static bool no_mounts_and_namespaces(void)
{
    return refuses(mount("none", "/tmp", "tmpfs", 0, NULL)) && refuses(umount2("/tmp", MNT_DETACH)) &&
           refuses(unshare(CLONE_NEWUSER)) && refuses(setns(-1, 0)) && refuses(chroot("/"));
}

static bool no_sockets_but_two_kinds(void)
{
    return refuses(socket(AF_NETLINK, SOCK_RAW, 0)) && refuses(socket(AF_PACKET, SOCK_RAW, 0)) &&
           refuses(socket(AF_VSOCK, SOCK_STREAM, 0)) && socket(AF_UNIX, SOCK_STREAM, 0) >= 0 &&
           socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static void *stop(void *argument)
{
    return argument;
}

static bool files_and_threads_as_ever(void)
{
    pthread_t thread;
    void *result = NULL;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fd >= 0 && write(fd, "x", 1) == 1 && pthread_create(&thread, NULL, stop, &fd) == 0 &&
           pthread_join(thread, &result) == 0 && result == &fd && kill(getpid(), 0) == 0;
}

static bool never_asks(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L /* getpid of i386 */) : "memory");
    return result > 0;
}

static atomic_bool is_filtered;
static atomic_long says;

static void *try_later(void *argument)
{
    while (!atomic_load(&is_filtered))
        sched_yield();
    errno = 0;
    atomic_store(&says, syscall(SYS_unshare, 0) < 0 ? errno : 0);
    return argument;
}

CASE(a_filtered_vmm_starts_nothing_and_mounts_nothing)
{
    CHECK(status_of(no_other_program) == 0);
    CHECK(status_of(no_other_process) == 0);
    CHECK(status_of(no_mounts_and_namespaces) == 0);
    CHECK(status_of(no_sockets_but_two_kinds) == 0);
}

CASE(what_a_vmm_does_it_still_can)
{
    CHECK(status_of(files_and_threads_as_ever) == 0);
}

CASE(calls_by_another_door_end_it)
{
    int status = status_of(never_asks);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

CASE(threads_that_were_there_are_filtered_too)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        pthread_t thread;
        bool works = pthread_create(&thread, NULL, try_later, NULL) == 0 && filter_install() == 0;
        atomic_store(&is_filtered, true);
        _exit(works && pthread_join(thread, NULL) == 0 && atomic_load(&says) == EPERM ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}
