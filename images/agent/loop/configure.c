/* SPDX-License-Identifier: Apache-2.0 */
/* See configure.h. */
#include "loop/configure.h"

#include "base/files.h"
#include "base/scope.h"
#include "base/texts.h"
#include "kernel/cgroup.h"
#include "kernel/namespaces.h"
#include "kernel/network.h"
#include "kernel/shares.h"
#include "kernel/sockets.h"
#include "loop/apps.h"
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#define SHM "/run/clearpod/shm"

static const uint64_t shm_default_bytes = 64 << 20;

static int set_names(const clearpod_agent_Configure *settings, struct fault *why)
{
    if (*settings->hostname && sethostname(settings->hostname, strlen(settings->hostname)) < 0)
        return fault_errno(why, "set the host name '%s'", settings->hostname);
    if (*settings->domainname && setdomainname(settings->domainname, strlen(settings->domainname)) < 0)
        return fault_errno(why, "set the domain name '%s'", settings->domainname);
    return 0;
}

/* Sysctls of the pod's IPC namespace can be written only by the root of its user namespace. */
static int write_as_pod_root(const char *path, const char *value)
{
    int result, error = EACCES;
    if (!pod_root() || seteuid(pod_root()) < 0) {
        errno = error;
        return -1;
    }
    result = file_write(path, value);
    error = errno;
    if (seteuid(0) < 0)
        abort();
    errno = error;
    return result;
}

static int set_sysctl(const clearpod_agent_Sysctl *sysctl, struct fault *why)
{
    char path[160];
    if (!sysctl_path(sysctl->key, path, sizeof path))
        return fault_set(why, FAULT_INVALID, "'%s' can't be a sysctl", sysctl->key);
    if (file_write(path, sysctl->value) == 0 || (errno == EACCES && write_as_pod_root(path, sysctl->value) == 0))
        return 0;
    bool is_refused = errno != ENOMEM && errno != EIO; /* by the kernel, which does not have it or not this value */
    fault_errno(why, "set the sysctl %s to '%s'", sysctl->key, sysctl->value);
    why->code = is_refused ? FAULT_INVALID : why->code;
    return -1;
}

/* `is_remount`: after a warm-up only the size changes. */
static int mount_shm(uint64_t bytes, bool is_remount, struct fault *why)
{
    char options[96];
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | (is_remount ? MS_REMOUNT : 0);
    if (agent.arguments.host.host_ipc)
        return make_dir(SHM, 01777) < 0 || mount("/dev/shm", SHM, NULL, MS_BIND, NULL) < 0
                   ? fault_errno(why, "bind /dev/shm on " SHM)
                   : 0;
    snprintf(options, sizeof options, "mode=1777,size=%llu,uid=%u,gid=%u",
             (unsigned long long)(bytes ? bytes : shm_default_bytes), pod_root(), pod_root());
    if (make_dir(SHM, 01777) < 0 || mount("shm", SHM, "tmpfs", flags, options) < 0)
        return fault_errno(why, "mount a tmpfs on " SHM);
    return 0;
}

/* The host's own name and network are not the pod's to change. */
static int set_identity(const clearpod_agent_Configure *settings, struct fault *why)
{
    if (agent.arguments.host.host_network)
        return 0;
    return set_names(settings, why) < 0 ? -1 : network_configure(settings, why);
}

/* A guest that has waited in the pool: its random numbers must not derive from what it had before, its clock may have
 * drifted. An agent on the host is sent neither. */
static int freshen(const clearpod_agent_Configure *settings, struct fault *why)
{
    struct {
        struct rand_pool_info head;
        uint8_t bytes[sizeof settings->entropy.bytes];
    } given = {{.entropy_count = settings->entropy.size * 8, .buf_size = settings->entropy.size}, {0}};
    memcpy(given.bytes, settings->entropy.bytes, settings->entropy.size);
    set_clock(settings->unix_ns);
    if (!settings->entropy.size)
        return 0;
    scoped_fd int random = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (random < 0 || ioctl(random, RNDADDENTROPY, &given) < 0 || ioctl(random, RNDRESEEDCRNG) < 0)
        return fault_errno(why, "reseed the random numbers");
    return 0;
}

/* A copy of a template has them from now on, an autonomous one already. Not before its random numbers are its own. */
static int mount_shares(const clearpod_agent_Configure *settings, struct fault *why)
{
    return agent.arguments.template && !agent.arguments.plan && !settings->warm_up ? shares_mount(&agent.arguments, why)
                                                                                   : 0;
}

/* Only of an autonomous pod: the clock at the start of its VM, and the key of its link. */
static void configure_plan(const clearpod_agent_Configure *settings)
{
    apps_begin(settings->lasting);
    if (settings->unix_ns && !agent.arguments.template) /* a copy has begun later than its clock */
        set_clock(settings->unix_ns + monotonic_ns());
    if (settings->link_key.size == MARKER_BYTES) {
        memcpy(agent.link.key, settings->link_key.bytes, MARKER_BYTES);
        agent.link.has_key = true;
    }
}

/* This guest was another pod's and is unclaimed now: nothing of its own has run since. */
static int leave_identity(const clearpod_agent_Configure *settings, struct fault *why)
{
    if (freshen(settings, why) < 0 || network_undo(settings, why) < 0)
        return -1;
    if (sockets_exist())
        cgroup_each("", 0, sockets_reset, 0);
    return 0;
}

int configure(const clearpod_agent_Configure *settings, struct fault *why)
{
    static bool done, is_warm;
    if (settings->copied && done) {
        done = leave_identity(settings, why) < 0;
        return -done;
    }
    if (done || (is_warm && settings->ids))
        return fault_set(why, FAULT_STATE, "the pod was configured already");
    if (freshen(settings, why) < 0 || mount_shares(settings, why) < 0 ||
        (!is_warm && namespaces_make(settings, why) < 0) || set_identity(settings, why) < 0)
        return -1;
    for (unsigned i = 0; i < settings->sysctls_count; i++) /* after the network: some belong to an interface */
        if (set_sysctl(&settings->sysctls[i], why) < 0)
            return -1;
    if (mount_shm(settings->shm_bytes, is_warm, why) < 0)
        return -1;
    if (agent.arguments.plan)
        configure_plan(settings);
    done = !settings->warm_up;
    is_warm = true;
    return done ? 0 : network_undo(settings, why); /* namespaces and shm stay, and are not made again */
}
