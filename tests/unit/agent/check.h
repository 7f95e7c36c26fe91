/* SPDX-License-Identifier: Apache-2.0 */
/* The least of a test framework: cases register themselves by name, a failed check names its line and ends the run. */
#ifndef CLEARPOD_CHECK_H
#define CLEARPOD_CHECK_H

#include <stdio.h>
#include <stdlib.h>

void check_case(const char *name, void (*run)(void));
extern const char *vectors_dir;

#define CASE(name)                                                 \
    static void name(void);                                        \
    __attribute__((constructor)) static void register_##name(void) \
    {                                                              \
        check_case(#name, name);                                   \
    }                                                              \
    static void name(void)

#define CHECK(what)                                                            \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

#endif
