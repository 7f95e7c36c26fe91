/* SPDX-License-Identifier: Apache-2.0 */
/* See cgroup.h. */
#include "kernel/cgroup.h"

#include "base/files.h"
#include "base/profile.h"
#include "base/scope.h"
#include "kernel/usage.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>

#define ROOT "/sys/fs/cgroup"

enum { FREEZE_LIMIT_MS = 1000, DEPTH = 16, PATH_BYTES = 512, PLACE_BYTES = 320 };

/* Reserved for the agent, its helpers, crun and the kernel: 8 MiB, of a small guest an eighth. */
enum { RESERVE = 8 << 20, RESERVE_SHARE = 8 };

static uint64_t most; /* bytes that all containers together may have; 0: not known, as on a host, which bounds them */

static void path_of(char path[PATH_BYTES], const char *container, uint32_t exec, const char *file)
{
    char place[PLACE_BYTES], part[24] = "";
    profile.cgroup_path(place, sizeof place, container);
    if (exec)
        snprintf(part, sizeof part, "/exec-%u", exec);
    snprintf(path, PATH_BYTES, "%s%s%s%s", place, part, *file ? "/" : "", file);
}

static int enable_all(const char *dir, struct fault *why)
{
    char path[PATH_BYTES], names[256], list[320] = "";
    snprintf(path, sizeof path, "%s/cgroup.controllers", dir);
    if (file_read(path, names, sizeof names) < 0)
        return fault_errno(why, "read %s", path);
    char *rest = names;
    for (char *name; (name = strtok_r(rest, " \n", &rest));)
        if (strlen(list) + strlen(name) + 3 < sizeof list)
            sprintf(list + strlen(list), "+%s ", name);
    snprintf(path, sizeof path, "%s/cgroup.subtree_control", dir);
    return *list && file_write(path, list) < 0 ? fault_errno(why, "write '%s' to %s", list, path) : 0;
}

static uint64_t bytes_for_containers(void)
{
    struct sysinfo info;
    sysinfo(&info);
    uint64_t free_bytes = (uint64_t)info.freeram * info.mem_unit, share = free_bytes / RESERVE_SHARE;
    return free_bytes - (share < RESERVE ? share : RESERVE);
}

/*
 * A guest whose memory is full gives back the pages of all its programs, and reads them again, for minutes before its
 * kernel ends anybody. In a cgroup that ends a few MiB earlier the largest is ended at once.
 */
int cgroup_limit_memory(const char *limit)
{
    char path[PATH_BYTES], number[24];
    uint64_t bytes = strtoull(limit, NULL, 10); /* 0 of "max" */
    path_of(path, "", 0, "memory.max");
    snprintf(number, sizeof number, "%" PRIu64, most);
    return file_write(path, most && (!bytes || bytes > most) ? number : limit);
}

int cgroup_boot(bool is_guest, struct fault *why)
{
    char all[PLACE_BYTES];
    profile.cgroup_path(all, sizeof all, "");
    if (enable_all(ROOT, why) < 0)
        return -1;
    if (make_dir(all, 0755) < 0)
        return fault_errno(why, "mkdir %s", all);
    most = is_guest ? bytes_for_containers() : 0;
    if (most && cgroup_limit_memory("max") < 0)
        return fault_errno(why, "limit the memory of %s", all);
    return enable_all(all, why);
}

void cgroup_kill(const char *container, uint32_t exec)
{
    char path[PATH_BYTES];
    path_of(path, container, exec, "cgroup.kill");
    file_write(path, "1");
}

static int each_proc(const char *dir, cgroup_each_process *each, int number)
{
    char path[PATH_BYTES], line[32];
    int sent = 0;
    snprintf(path, sizeof path, "%.480s/cgroup.procs", dir);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        sent += each((pid_t)atoi(line), number) == 0;
    if (file)
        fclose(file);
    return sent;
}

/* Containers may make cgroups below their own. */
static int each_of_tree(const char *dir, cgroup_each_process *each, int number, int depth)
{
    int sent = each_proc(dir, each, number);
    scoped_dir DIR *list = depth < DEPTH ? opendir(dir) : NULL;
    for (struct dirent *entry; list && (entry = readdir(list));) {
        char path[PATH_BYTES];
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        if (snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) < PATH_BYTES)
            sent += each_of_tree(path, each, number, depth + 1);
    }
    return sent;
}

int cgroup_each(const char *container, uint32_t exec, cgroup_each_process *each, int number)
{
    char path[PATH_BYTES];
    path_of(path, container, exec, "");
    return each_of_tree(path, each, number, 0);
}

int cgroup_signal(const char *container, uint32_t exec, int signal)
{
    return cgroup_each(container, exec, kill, signal) ? 0 : -1;
}

/* Wait until the cgroup's `event` is so, or it is gone; false after `limit_ms`. */
static bool wait_until(const char *container, const char *event, uint64_t is_so, int limit_ms)
{
    char path[PATH_BYTES], text[256];
    path_of(path, container, 0, "cgroup.events");
    for (int waited = 0; waited <= limit_ms; waited++) {
        if (file_read(path, text, sizeof text) < 0 || keyed_number(text, event) == is_so)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return false;
}

bool cgroup_wait_empty(const char *container, int limit_ms)
{
    return wait_until(container, "populated", 0, limit_ms);
}

int cgroup_freeze(const char *container, bool stands)
{
    char path[PATH_BYTES];
    path_of(path, container, 0, "cgroup.freeze");
    if (file_write(path, stands ? "1" : "0") < 0)
        return -1;
    errno = ETIMEDOUT;
    return wait_until(container, "frozen", stands, FREEZE_LIMIT_MS) ? 0 : -1;
}

bool cgroup_oom_killed(const char *container)
{
    char path[PATH_BYTES], text[512];
    path_of(path, container, 0, "memory.events");
    return file_read(path, text, sizeof text) > 0 && keyed_number(text, "oom_kill") > 0;
}

int cgroup_add_exec(const char *container, uint32_t exec)
{
    char path[PATH_BYTES];
    path_of(path, container, exec, "");
    return make_dir(path, 0755);
}

void cgroup_remove_exec(const char *container, uint32_t exec)
{
    char path[PATH_BYTES];
    path_of(path, container, exec, "");
    rmdir(path);
}
