/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls that a running kvmtool may make: images/seccomp, "kvmtool-loaded". */
#ifndef CLEARPOD_SHIM_FILTER_H
#define CLEARPOD_SHIM_FILTER_H

/* For all threads of the process, irrevocably. Unlike the filter that it was started with, this one has no execve and no memory that
 * becomes code. A call that is not in the list ends the process with SIGSYS. 0, or -1 and errno when the kernel can't. */
int filter_install(void);

/* The same for a process that was started with the filter `seccomp-kvmtool`: it adds only what takes away, "kvmtool-closing". In one
 * that has no filter at all it is filter_install. */
int filter_close(void);

#endif
