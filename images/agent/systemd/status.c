/* SPDX-License-Identifier: Apache-2.0 */
/* See units.h. Pure. */
#include "units.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

int unit_status(const char *code, const char *status)
{
    static const struct {
        const char *name;
        int number;
    } names[] = {{"HUP", SIGHUP}, {"INT", SIGINT}, {"QUIT", SIGQUIT}, {"ABRT", SIGABRT}, {"SEGV", SIGSEGV},
                 {"TERM", SIGTERM}, {"BUS", SIGBUS}};
    if (!code || !status || !strcmp(code, "exited"))
        return (status ? atoi(status) & 255 : 1) << 8;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, status))
            return names[i].number;
    return SIGKILL;
}
