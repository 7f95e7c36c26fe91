/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lists of system calls that a VMM may make, as data. main.c turns them into filters by libseccomp, which is not needed at
 * run time. A call that is in no list ends the process (SIGSYS).
 */
#ifndef CLEARPOD_SECCOMP_RULES_H
#define CLEARPOD_SECCOMP_RULES_H

#include <asm/unistd.h>
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>

#ifndef __x86_64__
#error "the numbers of system calls and requests are x86-64's"
#endif

enum { RULE_CONDITIONS = 3 };

/* A call, and what happens when all `count` conditions hold: SCMP_ACT_ALLOW, SCMP_ACT_ERRNO or, in a filter that
 * allows what it does not name, SCMP_ACT_KILL_PROCESS. A call may have several rules. */
struct rule {
    const char *name;
    int number;
    uint32_t action;
    unsigned count;
    struct scmp_arg_cmp conditions[RULE_CONDITIONS];
};

/* clang-format off */
#define RULE(call, answer, ...)                                                                         \
    {                                                                                                   \
        .name = #call, .number = __NR_##call, .action = (answer),                                       \
        .count = sizeof((struct scmp_arg_cmp[]){__VA_ARGS__}) / sizeof(struct scmp_arg_cmp),             \
        .conditions = { __VA_ARGS__ }                                                                   \
    }
/* clang-format on */
#define ALLOW(call) {.name = #call, .number = __NR_##call, .action = SCMP_ACT_ALLOW}
#define ALLOW_IF(call, ...) RULE(call, SCMP_ACT_ALLOW, __VA_ARGS__)
#define FAIL(call, error) {.name = #call, .number = __NR_##call, .action = SCMP_ACT_ERRNO(error)}
#define FAIL_IF(call, error, ...) RULE(call, SCMP_ACT_ERRNO(error), __VA_ARGS__)
#define KILL(call) {.name = #call, .number = __NR_##call, .action = SCMP_ACT_KILL_PROCESS}
#define KILL_IF(call, ...) RULE(call, SCMP_ACT_KILL_PROCESS, __VA_ARGS__)
#define END {.name = NULL}

/* Conditions on the lower 32 bits of an argument, which is all that the kernel looks at in an `int`. */
#define BITS(index, mask, value) {.arg = (index), .op = SCMP_CMP_MASKED_EQ, .datum_a = (mask), .datum_b = (value)}
#define IS(index, value) BITS(index, 0xffffffffu, (uint32_t)(value))

/* Calls that are newer than some kernel headers. */
#ifndef __NR_futex_waitv
#define __NR_futex_waitv 449
#endif
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif
#ifndef __NR_map_shadow_stack
#define __NR_map_shadow_stack 453
#endif
#ifndef __NR_futex_wake
#define __NR_futex_wake 454
#define __NR_futex_wait 455
#define __NR_futex_requeue 456
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

/* Each ends with END. */
extern const struct rule library_rules[]; /* what the C library, threads and an event loop need; in every filter */
extern const struct rule loading_rules[]; /* to become the VMM: exec, the dynamic loader, a further filter */
extern const struct rule loaded_rules[];  /* instead of these, once the VMM is complete: no exec, no new code */
extern const struct rule closing_rules[]; /* what `loading_rules` has more, ended: for a filter that allows the rest */
extern const struct rule file_rules[];    /* disks and the 9p server */
extern const struct rule qemu_rules[];
extern const struct rule kvmtool_rules[];
extern const struct rule volumes_rules[]; /* the volume server, alone */

#endif
