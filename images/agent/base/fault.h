/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why something failed: a Code of agent.proto and one sentence. Fallible functions return a negative number and
 * fill in the `struct fault *why` that comes last; nobody prints or exits below main.
 */
#ifndef CLEARPOD_FAULT_H
#define CLEARPOD_FAULT_H

enum fault_code {
    FAULT_INVALID = 1,
    FAULT_NOT_FOUND,
    FAULT_EXISTS,
    FAULT_STATE,
    FAULT_COMMAND,
    FAULT_FAILED,
    FAULT_FULL
};

struct fault {
    enum fault_code code;
    char text[480];
};

/* Both return -1, so that a caller can write `return fault_set(...)`. fault_errno appends the text of errno. */
int fault_set(struct fault *why, enum fault_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int fault_errno(struct fault *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
