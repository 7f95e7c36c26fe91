/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the filters: make-filters DIR. Of each NAME there are NAME.bpf, the instructions as the kernel takes them (struct
 * sock_filter[]), NAME.h, the same as initializers in C, and NAME.pfc, the same for people. Run by the builders only.
 */
#include "rules.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LISTS = 4, TREE = 2 /* libseccomp's: a binary search by the call's number */ };

struct filter {
    const char *name;
    const struct rule *lists[LISTS];
    uint32_t otherwise; /* the answer to all other calls */
};

static const struct filter filters[] = {
    {"seccomp-qemu", {library_rules, loading_rules, file_rules, qemu_rules}, SCMP_ACT_KILL_PROCESS},
    {"seccomp-kvmtool", {library_rules, loading_rules, file_rules, kvmtool_rules}, SCMP_ACT_KILL_PROCESS},
    {"seccomp-volumes", {volumes_rules}, SCMP_ACT_KILL_PROCESS},
    {"kvmtool-loaded", {library_rules, loaded_rules, file_rules, kvmtool_rules}, SCMP_ACT_KILL_PROCESS},
    {"kvmtool-closing", {closing_rules}, SCMP_ACT_ALLOW},
};

_Noreturn static void give_up(const char *what, const char *name, int error)
{
    fprintf(stderr, "make-filters: %s %s: %s\n", what, name, strerror(error));
    exit(1);
}

static void check(int result, const char *what, const char *name)
{
    if (result < 0)
        give_up(what, name, -result);
}

static void add_all(scmp_filter_ctx to, const struct rule *rules)
{
    for (const struct rule *rule = rules; rule->name; rule++)
        check(seccomp_rule_add_exact_array(to, rule->action, rule->number, rule->count, rule->conditions), "add",
              rule->name);
}

/* Only x86-64: i386 by `int 0x80` is another architecture, and x32 has numbers of its own; both end the process. */
static scmp_filter_ctx compile(const struct filter *filter)
{
    scmp_filter_ctx context = seccomp_init(filter->otherwise);
    if (!context)
        give_up("begin", filter->name, ENOMEM);
    check(seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "set", "BADARCH");
    check(seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, TREE), "set", "OPTIMIZE");
    for (int i = 0; i < LISTS && filter->lists[i]; i++)
        add_all(context, filter->lists[i]);
    return context;
}

static int create(const char *directory, const char *name, const char *suffix)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.%s", directory, name, suffix);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        give_up("create", path, errno);
    return fd;
}

static void write_initializers(const char *directory, const char *name, int bytes)
{
    struct sock_filter line;
    int text = create(directory, name, "h");
    for (off_t at = 0; pread(bytes, &line, sizeof line, at) == sizeof line; at += (off_t)sizeof line)
        check(dprintf(text, "{0x%02x, %u, %u, 0x%08x},\n", line.code, line.jt, line.jf, line.k), "write", name);
    close(text);
}

int main(int count, char **argv)
{
    if (count != 2)
        give_up("use:", "make-filters DIR", EINVAL);
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        const char *name = filters[i].name;
        scmp_filter_ctx context = compile(&filters[i]);
        int bytes = create(argv[1], name, "bpf"), text = create(argv[1], name, "pfc");
        check(seccomp_export_bpf(context, bytes), "write", name);
        check(seccomp_export_pfc(context, text), "write", name);
        write_initializers(argv[1], name, bytes);
        close(bytes);
        close(text);
        seccomp_release(context);
    }
    return 0;
}
