/* SPDX-License-Identifier: Apache-2.0 */
/* See namespaces.h. The paths are known to stage1/pod/oci.py. */
#include "kernel/namespaces.h"

#include "base/files.h"
#include "base/scope.h"
#include "kernel/network.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/mount.h> /* before sys/mount.h: together they go in this order only */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEPT "/run/clearpod/pause.%s-ns"
#define EMPTY "/run/clearpod/empty"

enum { SHARED = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, PATH_BYTES = 64 };

static uint32_t first_id;

uint32_t pod_root(void)
{
    return first_id;
}

void pause_forever(void)
{
    prctl(PR_SET_DUMPABLE, 0); /* no container may look into the guest's root through it */
    signal(SIGCHLD, SIG_IGN);  /* the kernel reaps what is orphaned */
    for (;;)
        pause();
}

/* Become the root of the user namespace, whose ids are known once the other end of `go` is closed; the guest's root has
 * no name there. Tracing it, which takes a capability, shows an empty directory. */
static void become_pod_root(int go)
{
    char nothing;
    if (read(go, &nothing, 1) != 0 || setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
        _exit(126);
}

/* A new program image, so that nothing of the agent's memory is in a process that containers can see. */
static void exec_pause(int go)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* on a host, where the agent can be killed, its pods' processes go with it */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < 3; i++) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, i);
    }
    int self = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    if (go >= 0) {
        become_pod_root(go);
        if (chroot(EMPTY) < 0 || chdir("/") < 0)
            _exit(125);
    }
    static const char *const args[] = {"pause", NULL}, *const environment[] = {NULL};
    syscall(SYS_execveat, self, "", args, environment, AT_EMPTY_PATH);
    _exit(127);
}

static int keep(long pid, const char *kind, struct fault *why)
{
    char from[PATH_BYTES], to[PATH_BYTES];
    snprintf(from, sizeof from, "/proc/%ld/ns/%s", pid, kind);
    snprintf(to, sizeof to, KEPT, kind);
    scoped_fd int file = open(to, O_CREAT | O_RDONLY | O_CLOEXEC, 0400);
    if (file < 0 || mount(from, to, NULL, MS_BIND, NULL) < 0)
        return fault_errno(why, "bind %s on %s", from, to);
    return 0;
}

static int map_ids(long pid, uint32_t first, uint32_t count, struct fault *why)
{
    static const char *const names[] = {"uid_map", "gid_map"};
    char path[PATH_BYTES], line[PATH_BYTES];
    snprintf(line, sizeof line, "0 %u %u", first, count);
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/%ld/%s", pid, names[i]);
        if (file_write(path, line) < 0)
            return fault_errno(why, "write '%s' to the pod's %s", line, names[i]);
    }
    return 0;
}

static int open_kept(const char *kind, struct fault *why)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, KEPT, kind);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? fault_errno(why, "open %s", path) : fd;
}

static int join(const char *kind, int flag, struct fault *why)
{
    scoped_fd int fd = open_kept(kind, why);
    if (fd < 0)
        return -1;
    return setns(fd, flag) < 0 ? fault_errno(why, "join the pod's %s namespace", kind) : 0;
}

static int enter(const clearpod_agent_Configure *settings, struct fault *why)
{
    scoped_fd int network = open_kept("net", why);
    if (network < 0 || network_give(settings, network, why) < 0)
        return -1;
    if (join("net", CLONE_NEWNET, why) < 0 || join("ipc", CLONE_NEWIPC, why) < 0)
        return -1;
    return join("uts", CLONE_NEWUTS, why);
}

static int keep_all(long pid, const clearpod_agent_Configure *settings, struct fault *why)
{
    static const char *const shared[] = {"user", "net", "ipc", "uts"};
    if (keep(pid, "pid", why) < 0)
        return -1;
    if (!settings->ids)
        return 0;
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (keep(pid, shared[i], why) < 0)
            return -1;
    return map_ids(pid, settings->first_id, settings->ids, why);
}

int namespaces_make(const clearpod_agent_Configure *settings, struct fault *why)
{
    int go[2] = {-1, -1};
    if (settings->ids && (!settings->first_id || settings->ids > UINT32_MAX - settings->first_id))
        return fault_set(why, FAULT_INVALID, "%u ids from %u on can't be a user namespace's", settings->ids,
                         settings->first_id);
    if (settings->ids && (make_dir(EMPTY, 0555) < 0 || pipe2(go, O_CLOEXEC) < 0))
        return fault_errno(why, "make " EMPTY " and a pipe");
    scoped_fd int wait = go[0], tell = go[1];
    /* Like fork: no stack is given, the child goes on with a copy of ours. */
    long pid = syscall(SYS_clone, CLONE_NEWPID | (settings->ids ? SHARED : 0) | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        close_fd(&tell);
        exec_pause(wait);
    }
    if (pid < 0)
        return fault_errno(why, "make the pod's namespaces");
    if (keep_all(pid, settings, why) < 0 || (settings->ids && enter(settings, why) < 0)) {
        kill((pid_t)pid, SIGKILL);
        return -1;
    }
    first_id = settings->ids ? settings->first_id : 0;
    return 0;
}

/* See mount_setattr(2). */
int mount_mapped(int from, const char *to, struct fault *why)
{
    scoped_fd int ids = open("/run/clearpod/pause.user-ns", O_RDONLY | O_CLOEXEC);
    scoped_fd int tree = (int)syscall(SYS_open_tree, from, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)ids};
    if (ids < 0 || tree < 0)
        return fault_errno(why, "open the pod's user namespace and the image");
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
        return fault_errno(why, "map the owners of the image");
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fault_errno(why, "mount the image on %s", to);
    return 0;
}
