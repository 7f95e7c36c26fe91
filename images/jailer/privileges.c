/* SPDX-License-Identifier: Apache-2.0 */
/* See images/jailer/README.md, user_namespaces(7), capabilities(7), landlock(7), seccomp(2). */
#include "privileges.h"

#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4u
#endif

/* What the 9p server, and that of volumes, need to give the guest's root what root expects of a volume: owners, modes, set-group-id bits. They
 * count for the ids of this user namespace only. Not mknod, which needs the host's root anyway. */
static const uint32_t KEPT = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID;

static struct sock_filter filter[BPF_MAXINSNS];
static size_t filter_bytes;

bool privileges_read_filter(const struct description *description)
{
    if (!description->filter)
        return true;
    int fd = open(description->filter, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, filter, sizeof filter);
    if (size < 0)
        return failed("read", description->filter);
    close(fd);
    filter_bytes = (size_t)size;
    if (size == 0 || filter_bytes % sizeof *filter) {
        errno = ENOEXEC;
        return failed("read the filter of system calls in", description->filter);
    }
    return true;
}

/* Access rights of files, by the version of the interface that first had them. */
static uint64_t rights_of(int version)
{
    uint64_t rights = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1;
    if (version >= 2)
        rights |= LANDLOCK_ACCESS_FS_REFER;
    if (version >= 3)
        rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
    if (version >= 5)
        rights |= LANDLOCK_ACCESS_FS_IOCTL_DEV;
    return rights;
}

static bool add_rule(int ruleset, const struct numbered *rule, uint64_t known)
{
    int fd = open(rule->text, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || failed("open", rule->text); /* what is not in the root needs no rule */
    struct landlock_path_beneath_attr attr = {.allowed_access = rule->number & known, .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &attr, 0) < 0)
        return failed("add the rule of Landlock for", rule->text);
    close(fd);
    return true;
}

bool privileges_make_ruleset(const struct description *description, int *ruleset)
{
    *ruleset = -1;
    int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1)
        return true; /* the root is what it is also without; `clearpod check` says so */
    struct landlock_ruleset_attr attr = {.handled_access_fs = rights_of(version)};
    if (version >= 4)
        attr.handled_access_net = LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP;
    if (version >= 6)
        attr.scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL;
    *ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (*ruleset < 0)
        return failed("make", "a ruleset of Landlock");
    for (size_t i = 0; i < description->rule_count; i++)
        if (!add_rule(*ruleset, &description->rules[i], attr.handled_access_fs))
            return false;
    return true;
}

static bool set_limits(const struct description *description)
{
    for (size_t i = 0; i < description->limit_count; i++) {
        struct rlimit limit = {description->limits[i].soft, description->limits[i].hard};
        if (setrlimit(description->limits[i].resource, &limit) < 0)
            return failed("set", "a limit of resources");
    }
    return true;
}

/* Its id 0, so that the exec leaves it what is in the bounding set, and no more. */
static bool become_root_inside(int ids)
{
    /* Our session's keys are not for it; a kernel without keys has none. */
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    if (setns(ids, CLONE_NEWUSER) < 0)
        return failed("enter", "the user namespace");
    if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
        return failed("become", "user 0 of the user namespace");
    return true;
}

static bool drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = KEPT, .permitted = KEPT}};
    for (unsigned long one = 0; prctl(PR_CAPBSET_READ, one) >= 0; one++)
        if ((one > 31 || !(KEPT >> one & 1)) && prctl(PR_CAPBSET_DROP, one, 0, 0, 0) < 0)
            return failed("drop", "a capability");
    if (syscall(SYS_capset, &header, data) < 0)
        return failed("give up", "capabilities");
    return true;
}

bool privileges_give_up(const struct description *description, int ids, int ruleset)
{
    if (!become_root_inside(ids) || !set_limits(description) || !drop_capabilities())
        return false;
    if (description->small_pages)
        prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* about memory only: an old kernel can't */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failed("forbid", "new privileges");
    if (ruleset >= 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        return failed("apply", "the rules of Landlock");
    return true;
}

/* Marks those from `first` up to `end` to be closed at the exec; none where both are the same. */
static bool mark(unsigned first, unsigned end)
{
    return first == end || syscall(SYS_close_range, first, end - 1, CLOSE_RANGE_CLOEXEC) == 0 ||
           failed("close", "descriptors");
}

/* All others close at the exec, ours among them. */
static bool hand_on(const struct description *description)
{
    bool kept[DESCRIPTOR_END] = {true, true, true};
    unsigned first = 3;
    for (size_t i = 0; i < description->kept_count; i++)
        kept[description->kept[i]] = true;
    for (size_t i = 0; i < description->tap_count; i++)
        kept[description->taps[i].number] = true;
    for (unsigned fd = first; fd < DESCRIPTOR_END; fd++) {
        if (!kept[fd])
            continue;
        if (!mark(first, fd))
            return false;
        if (fcntl((int)fd, F_SETFD, 0) < 0)
            return failed("hand on", "a descriptor");
        first = fd + 1;
    }
    return mark(first, ~0u);
}

static bool install_filter(void)
{
    struct sock_fprog program = {.len = (unsigned short)(filter_bytes / sizeof *filter), .filter = filter};
    if (filter_bytes && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        return failed("install", "the filter of system calls");
    return true;
}

bool privileges_close(const struct description *description)
{
    return hand_on(description) && install_filter();
}
