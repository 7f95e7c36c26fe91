/* SPDX-License-Identifier: Apache-2.0 */
/* See host.h. */
#include "boot/host.h"

#include "base/files.h"
#include "base/scope.h"
#include "kernel/cgroup.h"
#include "loop/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define RUN "/run/clearpod"
#define CGROUPS "/sys/fs/cgroup"

enum { PATH_BYTES = 512, KILL_LIMIT_MS = 5000 };

static bool has_cgroups;

/* The agent is the cgroup's root while its namespace is made, and then moves below it: only leaves have processes. */
static int join(const char *cgroup, struct fault *why)
{
    char path[PATH_BYTES];
    if (make_dir(cgroup, 0755) < 0)
        return fault_errno(why, "make the cgroup %s", cgroup);
    snprintf(path, sizeof path, "%s/cgroup.procs", cgroup);
    return file_write(path, "0") < 0 ? fault_errno(why, "join the cgroup %s", cgroup) : 0;
}

static int make_namespaces(const struct host_arguments *host, struct fault *why)
{
    int flags = CLONE_NEWNS | CLONE_NEWCGROUP;
    flags |= host->own_network ? CLONE_NEWNET : 0;
    flags |= host->own_ipc ? CLONE_NEWIPC : 0;
    flags |= host->host_network ? 0 : CLONE_NEWUTS; /* the host's network has the host's name */
    if (unshare(flags) < 0)
        return fault_errno(why, "make the pod's namespaces");
    /* The host's mounts still come in; ours never go out. */
    return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ? fault_errno(why, "make / a slave") : 0;
}

/* A bind: the kernel refuses the same file system on its own mount point (EBUSY), where the host has it. */
static int own_cgroups(const char *cgroup, struct fault *why)
{
    if (mount(cgroup, CGROUPS, NULL, MS_BIND, NULL) < 0)
        return fault_errno(why, "bind %s on " CGROUPS, cgroup);
    has_cgroups = true;
    if (make_dir(CGROUPS "/agent", 0755) < 0 || file_write(CGROUPS "/agent/cgroup.procs", "0") < 0)
        return fault_errno(why, "move to the cgroup " CGROUPS "/agent");
    return cgroup_boot(false, why);
}

static int make_parents(const char *path)
{
    char part[PATH_BYTES];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (make_dir(part, 0711) < 0)
            return -1;
    }
    return make_dir(part, 0700);
}

/* A tmpfs over RUN, which may hide the pod's directory: that one is put back where it was. */
static int cover_run(const char *directory, struct fault *why)
{
    scoped_fd int tree =
        (int)syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree < 0)
        return fault_errno(why, "open %s", directory);
    if (make_dir(RUN, 0711) < 0 || mount("clearpod", RUN, "tmpfs", MS_NOSUID | MS_NODEV, "mode=711") < 0)
        return fault_errno(why, "mount a tmpfs on " RUN);
    if (strncmp(directory, RUN "/", strlen(RUN) + 1) != 0)
        return 0;
    if (make_parents(directory) < 0)
        return fault_errno(why, "mkdir %s", directory);
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, directory, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fault_errno(why, "show %s", directory);
    return 0;
}

/* Links, not mounts: the volumes that the daemon mounts later below `directory` must be there at once. */
static int link_to(const char *directory, const char *name, const char *as, struct fault *why)
{
    char target[PATH_BYTES];
    if (snprintf(target, sizeof target, "%s%s", directory, name) >= PATH_BYTES)
        return fault_set(why, FAULT_INVALID, "the directory %.200s has too long a name", directory);
    return symlink(target, as) < 0 ? fault_errno(why, "link %s to %s", as, target) : 0;
}

static int make_paths(struct arguments *arguments, struct fault *why)
{
    const struct host_arguments *host = &arguments->host;
    if (cover_run(host->directory, why) < 0)
        return -1;
    if (make_dir(RUN "/containers", 0711) < 0 || make_dir(RUN "/crun", 0711) < 0)
        return fault_errno(why, "make directories in " RUN);
    if (link_to(host->directory, "/share/layers", RUN "/layers", why) < 0 ||
        link_to(host->directory, "/share/volumes", RUN "/volumes", why) < 0)
        return -1;
    if (!host->scratch)
        return 0;
    snprintf(arguments->scratch, sizeof arguments->scratch, "directory");
    return link_to(host->scratch, "", RUN "/scratch", why);
}

int host_enter(struct arguments *arguments, struct fault *why)
{
    char socket[PATH_BYTES];
    snprintf(socket, sizeof socket, "%s/agent.sock", arguments->host.directory);
    umask(022);
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) /* what crun leaves is ours, as it is PID 1's in a guest */
        return fault_errno(why, "become a subreaper");
    if (join(arguments->host.cgroup, why) < 0 || make_namespaces(&arguments->host, why) < 0)
        return -1;
    if (transport_listen(socket, why) < 0 || make_paths(arguments, why) < 0)
        return -1;
    return own_cgroups(arguments->host.cgroup, why);
}

void host_end(int code)
{
    if (has_cgroups) { /* else the paths are those of the host's own cgroups */
        cgroup_kill("", 0);
        cgroup_wait_empty("", KILL_LIMIT_MS);
    }
    _exit(code);
}
