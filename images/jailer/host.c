/* SPDX-License-Identifier: Apache-2.0 */
/* The steps before there is a child, and those that only the host's root can do for it; see images/jailer/README.md. */
#include "host.h"

#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TUN "/dev/net/tun"

static bool write_file(const char *path, const char *text, size_t length)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return failed("open", path);
    bool done = write(fd, text, length) == (ssize_t)length;
    if (!done)
        failed("write", path);
    close(fd);
    return done;
}

static bool open_tap(const struct numbered *tap)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (strlen(tap->text) >= sizeof request.ifr_name) {
        errno = ENAMETOOLONG;
        return failed("open the tap", tap->text);
    }
    memcpy(request.ifr_name, tap->text, strlen(tap->text));
    int fd = open(TUN, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return failed("open", TUN);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        return failed("open the tap", tap->text);
    if (fd != (int)tap->number && (dup2(fd, (int)tap->number) < 0 || close(fd) < 0))
        return failed("give a number to the tap", tap->text);
    return true;
}

bool host_enter_network(const struct description *description)
{
    if (description->netns && *description->netns) {
        int fd = open(description->netns, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
            return failed("enter the network namespace", description->netns);
        close(fd);
    } else if (description->netns && unshare(CLONE_NEWNET) < 0) {
        return failed("make", "a network namespace");
    }
    for (size_t i = 0; i < description->tap_count; i++)
        if (!open_tap(&description->taps[i]))
            return false;
    return true;
}

bool host_join_cgroups(const struct description *description)
{
    char path[4096];
    for (size_t i = 0; i < description->cgroup_count; i++) {
        snprintf(path, sizeof path, "%s/cgroup.procs", description->cgroups[i]);
        if (!write_file(path, "0", 1))
            return false;
    }
    return true;
}

bool host_set_oom_score(void)
{
    return write_file("/proc/self/oom_score_adj", "0", 1);
}

static bool write_maps(const struct description *description, pid_t process)
{
    static char text[EXTENTS_MAX * 36];
    static const char *const names[] = {"uid_map", "gid_map"};
    char path[64];
    size_t length = 0;
    for (size_t i = 0; i < description->extent_count; i++) {
        const struct extent *one = &description->extents[i];
        length +=
            (size_t)snprintf(text + length, sizeof text - length, "%u %u %u\n", one->inside, one->outside, one->length);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", process, names[i]);
        if (!write_file(path, text, length))
            return false;
    }
    return true;
}

/* The kernel's limits of a user namespace are set by who is in it: in this one, and so in its VMM, none can be made. */
static bool forbid_namespaces(void)
{
    static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
    char path[64];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(path, sizeof path, "/proc/sys/user/max_%s_namespaces", kinds[i]);
        if (access(path, F_OK) == 0 && !write_file(path, "0", 1))
            return false;
    }
    return true;
}

/* The namespace begins with a process, which stops when it has set the limits, and does nothing else. */
static pid_t begin_user_namespace(void)
{
    int status;
    pid_t ourselves = getpid(), process = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == ourselves && forbid_namespaces()) /* else it ended before the line above */
            kill(getpid(), SIGSTOP);
        _exit(FAILED);
    }
    if (process < 0 || waitpid(process, &status, WUNTRACED) < 0) {
        failed("make", "a user namespace");
        return -1;
    }
    if (!WIFSTOPPED(status)) {
        errno = EACCES;
        failed("forbid", "further namespaces in that of a VMM");
        return -1;
    }
    return process;
}

bool host_join(const struct description *description, int kinds)
{
    int process = description->joined ? (int)syscall(SYS_pidfd_open, description->joined, 0) : -1;
    bool done = !description->joined || (process >= 0 && setns(process, kinds) == 0);
    if (!done)
        failed("enter", "the namespaces of the VMM");
    close(process);
    return done;
}

int host_make_user_namespace(const struct description *description)
{
    char path[64];
    if (description->joined) {
        snprintf(path, sizeof path, "/proc/%d/ns/user", description->joined);
        int joined = open(path, O_RDONLY | O_CLOEXEC);
        if (joined < 0)
            failed("open", path);
        return joined;
    }
    pid_t process = begin_user_namespace();
    if (process < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/%d/ns/user", process);
    int fd = write_maps(description, process) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        failed("open", path);
    kill(process, SIGKILL);
    while (waitpid(process, NULL, 0) < 0 && errno == EINTR)
        continue;
    return fd;
}
