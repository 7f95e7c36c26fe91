/* SPDX-License-Identifier: Apache-2.0 */
/* From the initramfs to the system image: mounts, cgroups, shares. Called once by the profile, and the end of it all. */
#ifndef CLEARPOD_BOOT_H
#define CLEARPOD_BOOT_H

#include "base/arguments.h"
#include "base/fault.h"

/* /dev, /proc, the arguments of the kernel's command line, and descriptors 0 to 2. */
int boot_early(struct arguments *arguments, struct fault *why);
/* Everything else, but for the shares of a template; afterwards / is the system image. */
int boot_mounts(const struct arguments *arguments, struct fault *why);
/* End the VM. */
void boot_end(void) __attribute__((noreturn));

#endif
