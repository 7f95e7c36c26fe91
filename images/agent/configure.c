/* SPDX-License-Identifier: Apache-2.0 */
/* See configure.h. */
#include "configure.h"

#include "files.h"
#include "scope.h"
#include "words.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAUSE "/run/clearpod/pause.pid-ns"
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

static int set_sysctl(const clearpod_agent_Sysctl *sysctl, struct fault *why)
{
    char path[160];
    if (!sysctl_path(sysctl->key, path, sizeof path))
        return fault_set(why, FAULT_INVALID, "'%s' can't be a sysctl", sysctl->key);
    if (file_write(path, sysctl->value) < 0)
        return fault_errno(why, "set the sysctl %s to '%s'", sysctl->key, sysctl->value);
    return 0;
}

static int mount_shm(uint64_t bytes, struct fault *why)
{
    char options[64];
    snprintf(options, sizeof options, "mode=1777,size=%llu", (unsigned long long)(bytes ? bytes : shm_default_bytes));
    if (make_dir(SHM, 01777) < 0 || mount("shm", SHM, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
        return fault_errno(why, "mount a tmpfs on " SHM);
    return 0;
}

void pause_forever(void)
{
    prctl(PR_SET_DUMPABLE, 0); /* no container may look into the guest's root through it */
    signal(SIGCHLD, SIG_IGN);  /* the kernel reaps what is orphaned */
    for (;;)
        pause();
}

/* A new program image, so that nothing of the agent's memory is in a process that containers can see. */
static void become_pause(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < 3; i++) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, i);
    }
    execl("/proc/self/exe", "pause", (char *)NULL);
    _exit(127);
}

static int start_pause(struct fault *why)
{
    char path[64];
    /* Like fork: no stack is given, the child goes on with a copy of ours. */
    long pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        become_pause();
    if (pid < 0)
        return fault_errno(why, "make the pod's pid namespace");
    scoped_fd int file = open(PAUSE, O_CREAT | O_RDONLY | O_CLOEXEC, 0400);
    snprintf(path, sizeof path, "/proc/%ld/ns/pid", pid);
    if (file < 0 || mount(path, PAUSE, NULL, MS_BIND, NULL) < 0) {
        fault_errno(why, "bind %s on " PAUSE, path);
        kill((pid_t)pid, SIGKILL);
        return -1;
    }
    return 0;
}

int configure(const clearpod_agent_Configure *settings, struct fault *why)
{
    static bool done;
    if (done)
        return fault_set(why, FAULT_STATE, "the pod was configured already");
    if (set_names(settings, why) < 0 || network_configure(settings, why) < 0)
        return -1;
    for (unsigned i = 0; i < settings->sysctls_count; i++) /* after the network: some belong to an interface */
        if (set_sysctl(&settings->sysctls[i], why) < 0)
            return -1;
    if (mount_shm(settings->shm_bytes, why) < 0 || start_pause(why) < 0)
        return -1;
    done = true;
    return 0;
}
