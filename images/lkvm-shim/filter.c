/* SPDX-License-Identifier: Apache-2.0 */
/* See filter.h and seccomp(2). The instructions are made from the lists in images/seccomp when this library is built. */
#include "filter.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sock_filter whole[] = {
#include "kvmtool-loaded.h"
};
static struct sock_filter closing[] = {
#include "kvmtool-closing.h"
};

/* At a thread's end the C library loads libgcc_s, whose code could not be mapped any more. A second load finds it there. */
static void load_early(void)
{
    (void)dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
}

static int install(struct sock_filter *lines, size_t bytes)
{
    struct sock_fprog code = {.len = (unsigned short)(bytes / sizeof *lines), .filter = lines};
    load_early();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &code) == 0 ? 0 : -1;
}

int filter_install(void)
{
    return install(whole, sizeof whole);
}

int filter_close(void)
{
    bool is_filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER;
    return is_filtered ? install(closing, sizeof closing) : filter_install();
}
