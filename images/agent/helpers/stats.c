/* SPDX-License-Identifier: Apache-2.0 */
/* See stats.h. */
#include "helpers/stats.h"

#include "base/files.h"
#include "base/profile.h"
#include "base/scope.h"
#include "kernel/cgroup.h"
#include "kernel/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#define RUN "/run/clearpod"

enum { PATH_BYTES = 512, TEXT_BYTES = 8192, DEPTH = 8 };

static char text[TEXT_BYTES];

/* The file's text; "" when it can't be read. */
static const char *content(const char *dir, const char *file)
{
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/%s", dir, file) >= PATH_BYTES || file_read(path, text, sizeof text) < 0)
        text[0] = 0;
    return text;
}

static uint64_t boottime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void cpu_of(const char *dir, clearpod_agent_CpuStats *to)
{
    const char *stat = content(dir, "cpu.stat");
    *to = (clearpod_agent_CpuStats){.usage_us = keyed_number(stat, "usage_usec"),
                                    .user_us = keyed_number(stat, "user_usec"),
                                    .system_us = keyed_number(stat, "system_usec"),
                                    .periods = keyed_number(stat, "nr_periods"),
                                    .throttled_periods = keyed_number(stat, "nr_throttled"),
                                    .throttled_us = keyed_number(stat, "throttled_usec")};
}

static void memory_of(const char *dir, clearpod_agent_MemoryStats *to)
{
    const char *stat = content(dir, "memory.stat");
    *to = (clearpod_agent_MemoryStats){.inactive_file = keyed_number(stat, "inactive_file"),
                                       .active_file = keyed_number(stat, "active_file"),
                                       .anonymous = keyed_number(stat, "anon"),
                                       .cache = keyed_number(stat, "file"),
                                       .kernel = keyed_number(stat, "kernel"),
                                       .mapped = keyed_number(stat, "file_mapped"),
                                       .faults = keyed_number(stat, "pgfault"),
                                       .major_faults = keyed_number(stat, "pgmajfault")};
    to->usage = plain_number(content(dir, "memory.current"));
    to->peak = plain_number(content(dir, "memory.peak"));
    to->limit = plain_number(content(dir, "memory.max"));
    to->swap = plain_number(content(dir, "memory.swap.current"));
    to->limit_hits = keyed_number(content(dir, "memory.events"), "max");
    to->oom_kills = keyed_number(text, "oom_kill");
}

/* Eight numbers behind equals signs, of which the averages have two decimals. Returns whether the kernel keeps them. */
static bool pressure_of(const char *dir, const char *file, clearpod_agent_Pressure *to)
{
    uint64_t *each[] = {&to->some_10, &to->some_60, &to->some_300, &to->some_us,
                        &to->full_10, &to->full_60, &to->full_300, &to->full_us};
    const char *at = content(dir, file);
    size_t i = 0;
    for (; i < sizeof each / sizeof *each && (at = strchr(at, '=')); i++)
        for (*each[i] = 0, at++; *at == '.' || (*at >= '0' && *at <= '9'); at++)
            if (*at != '.')
                *each[i] = *each[i] * 10 + (uint64_t)(*at - '0');
    return i > 0;
}

static bool pressures_of(const char *dir, clearpod_agent_Pressures *to)
{
    to->has_cpu = pressure_of(dir, "cpu.pressure", &to->cpu);
    to->has_memory = pressure_of(dir, "memory.pressure", &to->memory);
    to->has_io = pressure_of(dir, "io.pressure", &to->io);
    return to->has_cpu;
}

/* Lines of /proc/meminfo are "Key:    number kB". */
static uint64_t info_bytes(const char *info, const char *key)
{
    const char *line = strstr(info, key);
    return line ? plain_number(line + strlen(key)) * 1024 : 0;
}

static void memory_of_guest(clearpod_agent_MemoryStats *to)
{
    const char *info = content("/proc", "meminfo");
    to->limit = info_bytes(info, "MemTotal:");
    to->usage = to->limit - info_bytes(info, "MemFree:");
    to->inactive_file = info_bytes(info, "Inactive(file):");
    to->active_file = info_bytes(info, "Active(file):");
    to->anonymous = info_bytes(info, "AnonPages:");
    to->cache = info_bytes(info, "\nCached:");
    to->kernel = info_bytes(info, "\nSlab:") + info_bytes(info, "KernelStack:") + info_bytes(info, "PageTables:");
    to->mapped = info_bytes(info, "\nMapped:");
    const char *counts = content("/proc", "vmstat");
    to->faults = keyed_number(counts, "pgfault");
    to->major_faults = keyed_number(counts, "pgmajfault");
    to->oom_kills = keyed_number(counts, "oom_kill");
}

static void files_of(const char *pid, clearpod_agent_ContainerStats *to)
{
    char path[PATH_BYTES], target[16];
    snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
    scoped_dir DIR *list = opendir(path);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (entry->d_name[0] == '.')
            continue;
        ssize_t got = readlinkat(dirfd(list), entry->d_name, target, sizeof target);
        to->files++;
        to->sockets += got > 7 && !memcmp(target, "socket:", 7);
    }
}

/* The processes in the cgroup and in those below it. */
static void processes_of(const char *dir, bool files, int depth, clearpod_agent_ContainerStats *to)
{
    char path[PATH_BYTES], pid[24];
    snprintf(path, sizeof path, "%.480s/cgroup.procs", dir);
    FILE *procs = fopen(path, "re");
    while (procs && fgets(pid, sizeof pid, procs)) {
        pid[strcspn(pid, "\n")] = 0;
        to->processes++;
        if (files)
            files_of(pid, to);
    }
    if (procs)
        fclose(procs);
    scoped_dir DIR *list = depth < DEPTH ? opendir(dir) : NULL;
    for (struct dirent *entry; list && (entry = readdir(list));)
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) < PATH_BYTES)
            processes_of(path, files, depth + 1, to);
}

static void add_usage(const char *path, clearpod_agent_ContainerStats *to)
{
    struct usage usage;
    usage_of(path, &usage);
    to->disk_bytes += usage.bytes;
    to->disk_inodes += usage.inodes;
}

/* Its writable layer. Volumes on the disk are no container's: its limit would end a pod for what others wrote there. */
static void disk_of(clearpod_agent_ContainerStats *to)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, RUN "/scratch/%s/upper", to->id);
    add_usage(path, to);
    snprintf(path, sizeof path, RUN "/containers/%s/layer/upper", to->id);
    add_usage(path, to);
}

static void container_of(const struct task *task, clearpod_agent_ContainerStats *to)
{
    char dir[PATH_BYTES];
    profile.cgroup_path(dir, sizeof dir, to->id);
    to->has_cpu = to->has_memory = true;
    cpu_of(dir, &to->cpu);
    to->at_ns = boottime_ns();
    memory_of(dir, &to->memory);
    to->threads = plain_number(content(dir, "pids.current"));
    to->threads_max = plain_number(content(dir, "pids.max"));
    const char *io = content(dir, "io.stat");
    to->read_bytes = summed_number(io, "rbytes");
    to->reads = summed_number(io, "rios");
    to->written_bytes = summed_number(io, "wbytes");
    to->writes = summed_number(io, "wios");
    to->has_pressures = pressures_of(dir, &to->pressures);
    processes_of(dir, task->files, 0, to);
    if (task->disk)
        disk_of(to);
}

static void interfaces_of(clearpod_agent_PodStats *to)
{
    char line[512];
    FILE *dev = fopen("/proc/net/dev", "re");
    while (dev && to->interfaces_count < sizeof to->interfaces / sizeof *to->interfaces &&
           fgets(line, sizeof line, dev))
        to->interfaces_count += interface_line(line, &to->interfaces[to->interfaces_count]);
    if (dev)
        fclose(dev);
}

static void pod_of(const struct task *task, clearpod_agent_PodStats *to)
{
    char dir[PATH_BYTES];
    struct statvfs disk;
    profile.cgroup_path(dir, sizeof dir, "");
    to->has_cpu = to->has_memory = true;
    cpu_of("/sys/fs/cgroup", &to->cpu);
    to->at_ns = boottime_ns();
    if (task->arguments->host.on)
        memory_of("/sys/fs/cgroup", &to->memory); /* as this pod sees it: docs/admin/kubernetes.md */
    else
        memory_of_guest(&to->memory);
    to->threads = plain_number(content(dir, "pids.current"));
    to->has_pressures = pressures_of(dir, &to->pressures);
    interfaces_of(to);
    if (statvfs(task->arguments->scratch[0] ? RUN "/scratch" : RUN, &disk) < 0)
        return;
    to->disk_bytes = (uint64_t)disk.f_blocks * disk.f_frsize;
    to->disk_free = (uint64_t)disk.f_bavail * disk.f_frsize;
    to->disk_inodes = disk.f_files;
    to->disk_inodes_free = disk.f_favail;
}

void stats_collect(const struct task *task)
{
    struct numbers *numbers = task->numbers;
    pod_of(task, &numbers->pod);
    for (unsigned i = 0; i < numbers->count; i++)
        container_of(task, &numbers->containers[i]);
}
