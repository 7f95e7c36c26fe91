/* SPDX-License-Identifier: Apache-2.0 */
/* System calls that a VMM never makes, taken away from it: kvmtool has no filter of its own, as QEMU has. */
#ifndef CLEARPOD_SHIM_FILTER_H
#define CLEARPOD_SHIM_FILTER_H

/* For all threads of the process, for ever: no program, process, mount, namespace, debugger or other user any more, and
 * sockets of AF_UNIX and AF_INET only. What is refused fails with EPERM. 0, or -1 and errno when the kernel can't. */
int filter_install(void);

#endif
