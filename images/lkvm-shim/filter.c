/* SPDX-License-Identifier: Apache-2.0 */
/* See filter.h and seccomp(2). The instructions are made from the lists in images/seccomp when this library is built. */
#include "filter.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sock_filter lines[] = {
#include "kvmtool-loaded.h"
};

/* At a thread's end the C library loads libgcc_s, whose code could not be mapped any more. A second load finds it there. */
static void load_early(void)
{
    (void)dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
}

int filter_install(void)
{
    struct sock_fprog code = {.len = sizeof lines / sizeof *lines, .filter = lines};
    load_early();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &code) == 0 ? 0 : -1;
}
