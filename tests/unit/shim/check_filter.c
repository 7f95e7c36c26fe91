/* SPDX-License-Identifier: Apache-2.0 */
/* The filter of a running kvmtool, each time in a process that it may be put on. */
#include "filter.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sock_filter first[] = {
#include "seccomp-kvmtool.h"
};

/* As a VMM that the jailer has started, with the filter that it has from there. */
static int close_what_was_filtered(void)
{
    struct sock_fprog code = {.len = sizeof first / sizeof *first, .filter = first};
    bool works = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &code) == 0;
    return works ? filter_close() : -1;
}

static int (*const installers[])(void) = {filter_install, close_what_was_filtered, filter_close};

/* How a process ends that is filtered and then asks `question`: 0 if the answer is yes. */
static int status_of(int (*install)(void), bool (*question)(void))
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(install() < 0 ? 3 : question() ? 0 : 1);
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static bool runs_a_program(void)
{
    char *const words[] = {(char *)(uintptr_t)"/bin/true", NULL};
    return execve(words[0], words, words + 1) == 0;
}

static bool runs_an_open_program(void)
{
    char *const words[] = {(char *)(uintptr_t)"/bin/true", NULL};
    return syscall(SYS_execveat, -1, words[0], words, words + 1, 0) == 0;
}

static bool forks(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0;
}

static bool vforks(void)
{
    return syscall(SYS_vfork) >= 0;
}

static bool traces(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}

static bool mounts(void)
{
    return mount("none", "/tmp", "tmpfs", 0, NULL) == 0;
}

static bool unshares(void)
{
    return unshare(CLONE_NEWUSER) == 0;
}

static bool opens_a_packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0) >= 0;
}

static bool opens_a_vsock(void)
{
    return socket(AF_VSOCK, SOCK_STREAM, 0) >= 0;
}

static bool connects(void)
{
    return connect(-1, NULL, 0) == 0;
}

static bool maps_code(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
}

static bool makes_data_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED || mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0;
}

static bool loads_another_filter(void)
{
    return prctl(PR_SET_SECCOMP, 0, 0, 0, 0) == 0;
}

static bool types_into_the_terminal(void)
{
    return syscall(SYS_ioctl, 0, 0x5412ul /* TIOCSTI */, "x") == 0;
}

static bool asks_as_i386(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L /* getpid of i386 */) : "memory");
    return result > 0;
}

static bool asks_as_x32(void)
{
    return syscall(0x40000000l | SYS_getpid) > 0;
}

static bool (*const deadly[])(void) = {
    runs_a_program,
    runs_an_open_program,
    forks,
    vforks,
    traces,
    mounts,
    unshares,
    opens_a_packet_socket,
    opens_a_vsock,
    connects,
    maps_code,
    makes_data_code,
    loads_another_filter,
    types_into_the_terminal,
    asks_as_i386,
    asks_as_x32,
};

static void check_deadly(int (*install)(void))
{
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        int status = status_of(install, deadly[i]);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
            fprintf(stderr, "case %zu of what is deadly: status %#x\n", i, status);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    }
}

CASE(what_a_vmm_never_does_ends_it)
{
    for (size_t i = 0; i < sizeof installers / sizeof *installers; i++)
        check_deadly(installers[i]);
}

static void *stop(void *argument)
{
    pthread_exit(argument);
}

static bool files_and_threads_as_ever(void)
{
    pthread_t thread;
    void *result = NULL;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fd >= 0 && write(fd, "x", 1) == 1 && pthread_create(&thread, NULL, stop, &fd) == 0 &&
           pthread_join(thread, &result) == 0 && result == &fd && kill(getpid(), 0) == 0;
}

/* kvmtool makes one of AF_INET for each tap, and goes on without. */
static bool sockets_of_its_own(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0) >= 0 && socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EAFNOSUPPORT;
}

/* The C library tries clone3 first. */
static bool no_clone3(void)
{
    return syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS;
}

CASE(what_a_vmm_does_it_still_can)
{
    for (size_t i = 0; i < sizeof installers / sizeof *installers; i++) {
        CHECK(status_of(installers[i], files_and_threads_as_ever) == 0);
        CHECK(status_of(installers[i], sockets_of_its_own) == 0);
        CHECK(status_of(installers[i], no_clone3) == 0);
    }
}

static atomic_bool is_filtered;

static void *try_later(void *argument)
{
    while (!atomic_load(&is_filtered))
        sched_yield();
    unshare(0);
    return argument;
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
        _exit(works && pthread_join(thread, NULL) == 0 ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}
