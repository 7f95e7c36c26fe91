/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent where systemd is PID 1. Its program is started four times: by the kernel, to boot as always and become
 * systemd; by systemd as `agent serve`, the agent itself, which is no PID 1 but of a guest; and for each container's unit.
 */
#include "base/files.h"
#include "base/profile.h"
#include "base/scope.h"
#include "base/texts.h"
#include "boot/boot.h"
#include "loop/autonomous.h"
#include "loop/loop.h"
#include "loop/process.h"
#include "systemd/endings.h"
#include "systemd/journal.h"
#include "systemd/starter.h"
#include "systemd/unit.h"
#include "systemd/units.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <time.h>
#include <x86intrin.h>

#define SYSTEMD "/usr/lib/systemd/systemd"
#define BEGAN "/run/clearpod/began" /* when PID 1 did, for Hello and marks */

enum { UNITS_LIMIT_MS = 10000, RUNNING_LIMIT_MS = 300, SET_LEVEL = 8, CRITICAL = 3 };

static int write_new(const char *path, const char *text)
{
    scoped_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
}

/* What is not systemd's to make: sockets' places, and the file that lets journald write to its disk from the start. */
static int make_places(struct fault *why)
{
    char began[64];
    snprintf(began, sizeof began, "%llu %llu", (unsigned long long)agent.init_ns, (unsigned long long)agent.init_tsc);
    if (make_dir(UNITS, 0700) < 0 || make_dir("/run/systemd", 0755) < 0 || make_dir("/run/systemd/journal", 0755) < 0)
        return fault_errno(why, "make directories in /run");
    if (write_new(BEGAN, began) < 0 || write_new("/run/systemd/journal/flushed", "") < 0)
        return fault_errno(why, "write files in /run");
    return 0;
}

/* Systemd logs errors about modules, of which this kernel has none: the journal has them, the console only what is worse. */
static void quieten(void)
{
    char levels[64];
    if (file_read("/proc/sys/kernel/printk", levels, sizeof levels) > 0 && atoi(levels) > CRITICAL)
        klogctl(SET_LEVEL, NULL, CRITICAL);
}

/* Only a bench has no shares: then the journal is in memory. */
static bool has_shares(void)
{
    return access("/run/clearpod/volumes/pod", F_OK) == 0;
}

/* As always, then systemd instead of the agent. */
static int boot(struct fault *why)
{
    static const char *const args[] = {SYSTEMD, NULL}, *const environment[] = {"TERM=dumb", NULL};
    if (boot_early(&agent.arguments, why) < 0)
        return -1;
    struct arguments mapped = agent.arguments;
    mapped.plan = true; /* the share has the cache of an autonomous pod's, since journald maps its files */
    if (boot_mounts(&mapped, why) < 0 || make_places(why) < 0)
        return -1;
    if (has_shares() && journal_mount(why) < 0)
        return -1;
    quieten();
    execve(SYSTEMD, (char **)(uintptr_t)args, (char **)(uintptr_t)environment);
    return fault_errno(why, "start " SYSTEMD);
}

static void recall_beginning(void)
{
    char text[64], *end;
    if (file_read(BEGAN, text, sizeof text) <= 0)
        return;
    agent.init_ns = strtoull(text, &end, 10);
    agent.init_tsc = strtoull(end, NULL, 10);
}

/* `rkt enter` into the guest's own root needs a container to enter. */
static int add_guest(struct fault *why)
{
    struct process *process = process_add(GUEST, 0);
    if (!process)
        return fault_set(why, FAULT_FAILED, "no room for the guest's own processes");
    process->state = P_RUNNING;
    process->pid = getpid();
    return 0;
}

static int begin_serving(struct fault *why)
{
    char line[COMMAND_LINE_BYTES], bad[64];
    if (file_read("/proc/cmdline", line, sizeof line) < 0)
        return fault_errno(why, "read /proc/cmdline");
    if (!arguments_parse(line, &agent.arguments, bad))
        return fault_set(why, FAULT_INVALID, "the kernel parameter '%s' is invalid", bad);
    file_write("/proc/sys/kernel/core_pattern", "core"); /* as without systemd, which turns dumps off */
    recall_beginning();
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) /* what crun leaves of an exec is ours, as it is PID 1's elsewhere */
        return fault_errno(why, "become a subreaper");
    if (endings_listen(why) < 0)
        return -1;
    if (!agent.arguments.plan)
        return 0;
    return add_guest(why) < 0 ? -1 : autonomous_begin(why);
}

/* Systemd keeps the cgroup of each unit, and delegates it; crun's is below. */
static void cgroup_path(char *to, size_t capacity, const char *container)
{
    static const char all[] = "/sys/fs/cgroup/clearpod.slice";
    if (!strcmp(container, GUEST)) /* none of systemd's */
        snprintf(to, capacity, "/sys/fs/cgroup/clearpod.guest");
    else if (*container)
        snprintf(to, capacity, "%s/app@%s.service/%s", all, container, container);
    else
        snprintf(to, capacity, "%s", all);
}

static bool any_unit(void)
{
    char path[64];
    cgroup_path(path, sizeof path, "");
    scoped_dir DIR *list = opendir(path);
    for (struct dirent *entry; list && (entry = readdir(list));)
        if (!strncmp(entry->d_name, "app@", 4))
            return true;
    return false;
}

/* Systemd removes a unit's cgroup when it has logged how the unit ended, and journald reads all before it ends. */
static void finish_journal(int limit_ms)
{
    for (int waited = 0; waited < limit_ms && any_unit(); waited++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    journal_end();
}

/* The launcher ends the VM once it has the pod's exit code: what units still have to write comes before. */
static void flush_journal(bool all)
{
    if (getpid() != 1)
        finish_journal(all ? UNITS_LIMIT_MS : RUNNING_LIMIT_MS);
}

/* The agent's service is over: report it, and end the VM. */
static void end_with_agent(void) __attribute__((noreturn));
static void end_with_agent(void)
{
    const char *code = getenv("EXIT_CODE"), *status = getenv("EXIT_STATUS");
    log_line("clearpod-agent: the agent's service has ended (%s, %s), and its pod with it",
             code ? code : "for no reason", status ? status : "no status");
    flush_journal(false);
    boot_end();
}

static int begin(const char *const *argv, struct fault *why)
{
    const char *what = argv[0] && argv[1] ? argv[1] : "", *id = *what && argv[2] ? argv[2] : "";
    if (getpid() == 1)
        return boot(why);
    if (!strcmp(what, "unit") && is_id(id))
        unit_run(id);
    if (!strcmp(what, "over") && is_id(id))
        unit_over(id);
    if (!strcmp(what, "lost"))
        end_with_agent();
    if (!strcmp(what, "serve"))
        return begin_serving(why);
    agent.arguments.host.on = true;
    return fault_set(why, FAULT_INVALID, "not PID 1, and the argument '%.63s' is invalid or missing",
                     *what ? what : "serve");
}

const struct profile profile = {
    .begin = begin,
    .flush_journal = flush_journal,
    .sync_ends = endings_sync,
    .oom_killed = endings_oom_killed,
    .cgroup_path = cgroup_path,
    .start = unit_start,
    .exec = unit_exec,
    .remove = unit_delete,
};
