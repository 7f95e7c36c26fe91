/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PID 1 of the machine in which the nested benchmark starts its virtual machines, one after the other, one file of
 * /plan each. It notes the time stamp counter before the exec of a VMM and when the guest's mark `ready` arrives, asks
 * KVM where the guest's counter lies, and ends the VMM. Results are lines on the console, traces on the second port.
 *
 * A plan file has lines: `name KIND.NUMBER`, `until N` (skip it when N starts of its kind came to `ready`), `trace EVENT`
 * (of tracefs), `filter FILE` (of system calls, which it is started with), `env K=V`, `arg WORD`. Written by plan.py.
 */
#include "stage.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TRACING "/sys/kernel/tracing/"
#define DEBUG_KVM "/sys/kernel/debug/kvm"
#define SOCKETS_OF_KVMTOOL "/run/.lkvm"

enum { WORDS = 96, KINDS = 64, LIMIT_MS = 20000, CONSOLE_BYTES = 1 << 20 };
enum { SECCOMP_MODE_FILTER = 2, LINE_BYTES = 8 };

/* As linux/filter.h has it, which musl has not. */
struct filter {
    unsigned short lines;
    char *first;
};

struct plan {
    char *text, *name, *events[WORDS], *env[WORDS + 1], *argv[WORDS + 1];
    struct filter filter;
    int event_count, env_count, arg_count, until;
};

struct kind {
    char name[32];
    int good;
};

struct run {
    pid_t pid;
    int console;
    uint64_t seen;
    size_t size;
};

static char console[CONSOLE_BYTES];
static struct kind kinds[KINDS];

static char *read_file(const char *path, size_t *size)
{
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0)
        fail("can't read", path);
    char *text = calloc(1, (size_t)about.st_size + 1);
    if (!text || read(fd, text, (size_t)about.st_size) != about.st_size)
        fail("can't read", path);
    close(fd);
    *size = (size_t)about.st_size;
    return text;
}

static char *read_all(const char *path)
{
    size_t size;
    return read_file(path, &size);
}

static struct filter read_filter(const char *path)
{
    size_t size;
    char *first = read_file(path, &size);
    return (struct filter){(unsigned short)(size / LINE_BYTES), first};
}

static void add(char **list, int *count, char *word)
{
    if (*count == WORDS) {
        errno = E2BIG;
        fail("too many words in", "a plan");
    }
    list[(*count)++] = word;
}

static void parse(struct plan *plan, char *line)
{
    char *value = strchr(line, ' ');
    if (!value)
        return;
    *value++ = 0;
    if (!strcmp(line, "name"))
        plan->name = value;
    else if (!strcmp(line, "until"))
        plan->until = atoi(value);
    else if (!strcmp(line, "trace"))
        add(plan->events, &plan->event_count, value);
    else if (!strcmp(line, "filter"))
        plan->filter = read_filter(value);
    else if (!strcmp(line, "env"))
        add(plan->env, &plan->env_count, value);
    else if (!strcmp(line, "arg"))
        add(plan->argv, &plan->arg_count, value);
}

static struct plan read_plan(const char *path)
{
    struct plan plan = {.text = read_all(path), .name = "?"};
    for (char *line = plan.text, *next; line; line = next) {
        if ((next = strchr(line, '\n')))
            *next++ = 0;
        parse(&plan, line);
    }
    return plan;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail("can't write", path);
    close(fd);
}

static void trace_events(const struct plan *plan, const char *on)
{
    char path[256];
    for (int i = 0; i < plan->event_count; i++) {
        snprintf(path, sizeof path, TRACING "events/%s/enable", plan->events[i]);
        put(path, on);
    }
}

static void trace_begin(const struct plan *plan)
{
    if (!plan->event_count)
        return;
    put(TRACING "trace", "\n");
    trace_events(plan, "1");
    put(TRACING "tracing_on", "1");
}

static void trace_end(const struct plan *plan)
{
    static char piece[1 << 16];
    ssize_t size;
    if (!plan->event_count)
        return;
    put(TRACING "tracing_on", "0");
    trace_events(plan, "0");
    int from = open(TRACING "trace", O_RDONLY | O_CLOEXEC), to = open("/dev/ttyS1", O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (from < 0 || to < 0)
        fail("can't copy", "the trace");
    dprintf(to, "bench.trace %s\n", plan->name);
    while ((size = read(from, piece, sizeof piece)) > 0)
        if (write(to, piece, (size_t)size) != size)
            fail("can't write", "the trace");
    close(from);
    close(to);
}

/* A number that KVM tells of the VM of this process, or 0. */
static long long kvm_says(pid_t pid, const char *what)
{
    char path[512], text[64] = "", prefix[32];
    DIR *list = opendir(DEBUG_KVM);
    snprintf(prefix, sizeof prefix, "%d-", pid);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, DEBUG_KVM "/%s/%s", entry->d_name, what);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && read(fd, text, sizeof text - 1) < 0)
            text[0] = 0;
        close(fd);
    }
    if (list)
        closedir(list);
    return atoll(text);
}

static void become_vmm(const struct plan *plan, int out, uint64_t *began)
{
    int null = open("/dev/null", O_RDONLY);
    setsid();
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    /* As stage1.vm.vmm starts ours, where not the shim sees to it; the traditional way has the kernel's default. */
    if (strcmp(plan->name, "microvm") == 0 || strcmp(plan->name, "lkvm_plain") == 0)
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (plan->filter.lines && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || /* as the jailer does */
                               prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &plan->filter) < 0))
        _exit(126);
    *began = __rdtsc();
    execve(plan->argv[0], plan->argv, plan->env);
    _exit(127);
}

/* Reads the guest's console until the line of its mark `ready` is whole, or there is no more. */
static bool await_ready(struct run *run)
{
    struct pollfd poll_one = {.fd = run->console, .events = POLLIN};
    for (run->size = 0; run->size < sizeof console - 1;) {
        char *mark;
        if (poll(&poll_one, 1, LIMIT_MS) <= 0)
            return false;
        ssize_t got = read(run->console, console + run->size, sizeof console - 1 - run->size);
        if (got <= 0)
            return false;
        run->seen = __rdtsc();
        run->size += (size_t)got;
        console[run->size] = 0;
        if ((mark = strstr(console, "clearpod.mark ready ")) && strchr(mark, '\n'))
            return true;
    }
    return false;
}

static void tell_marks(const char *name)
{
    for (char *at = console; (at = strstr(at, "clearpod.mark ")); at++)
        printf("bench.mark %s %.*s\n", name, (int)strcspn(at + 14, "\r\n"), at + 14);
}

/* The count of good starts of the plan's kind. */
static int *good_starts(const struct plan *plan)
{
    int length = (int)strcspn(plan->name, ".");
    for (struct kind *kind = kinds; kind < kinds + KINDS; kind++) {
        if (!kind->name[0])
            snprintf(kind->name, sizeof kind->name, "%.*s", length, plan->name);
        if ((int)strlen(kind->name) == length && !strncmp(kind->name, plan->name, (size_t)length))
            return &kind->good;
    }
    errno = E2BIG;
    fail("too many kinds, among them", plan->name);
}

static void remove_file(const char *path)
{
    unlink(path);
}

/* Those of a VMM that was killed. kvmtool would connect to its own, to see whether it is in use, and its filter forbids that. */
static void remove_sockets(void)
{
    mkdir(SOCKETS_OF_KVMTOOL, 0755);
    for_each("/run", remove_file);
    for_each(SOCKETS_OF_KVMTOOL, remove_file);
}

static void start_vmm(const struct plan *plan)
{
    struct run run;
    int ends[2], status;
    uint64_t *began = (uint64_t *)aligned_alloc(4096, 4096);
    if (pipe2(ends, O_CLOEXEC) < 0 || !began)
        fail("can't prepare", plan->name);
    trace_begin(plan);
    if ((run.pid = vfork()) == 0)
        become_vmm(plan, ends[1], began);
    close(ends[1]);
    run.console = ends[0];
    bool is_ready = await_ready(&run);
    long long offset = kvm_says(run.pid, "vcpu0/tsc-offset"), exits = kvm_says(run.pid, "exits");
    kill(-run.pid, SIGKILL);
    waitpid(run.pid, &status, 0);
    remove_sockets();
    trace_end(plan);
    tell_marks(plan->name);
    if (strcmp(plan->name + strcspn(plan->name, "."), ".warm") != 0)
        *good_starts(plan) += is_ready;
    if (is_ready)
        printf("bench.run %s %llu %llu %lld %lld\n", plan->name, (unsigned long long)*began,
               (unsigned long long)run.seen, offset, exits);
    else
        printf("bench.failed %s %d\n%.4000s\n", plan->name, status,
               run.size > 4000 ? console + run.size - 4000 : console);
    fflush(stdout);
    close(ends[0]);
    free(began);
}

static void run_plan(const char *path)
{
    struct plan plan = read_plan(path);
    if (!plan.until || *good_starts(&plan) < plan.until)
        start_vmm(&plan);
    free(plan.filter.first);
    free(plan.text);
}

int main(void)
{
    mount_at("proc", "/proc");
    mount_at("sysfs", "/sys");
    mount_at("devtmpfs", "/dev");
    mount_at("debugfs", "/sys/kernel/debug");
    mount_at("tracefs", "/sys/kernel/tracing");
    for_each("/modules", load_module);
    put(TRACING "tracing_on", "0");
    put(TRACING "trace_clock", "x86-tsc");
    put(TRACING "buffer_size_kb", "32768");
    for_each("/plan", run_plan);
    printf("bench.end\n");
    fflush(stdout);
    reboot(RB_AUTOBOOT);
}
