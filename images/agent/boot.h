/* SPDX-License-Identifier: Apache-2.0 */
/* From the initramfs to the system image: mounts, cgroups, shares. Called once by main, and the end of it all. */
#ifndef CLEARPOD_BOOT_H
#define CLEARPOD_BOOT_H

#include "fault.h"
#include "words.h"

/* /dev, /proc and the words of the kernel's command line. */
int boot_early(struct words *words, struct fault *why);
/* Everything else; afterwards / is the system image. */
int boot_mounts(const struct words *words, struct fault *why);
/* End the VM. */
void boot_end(void) __attribute__((noreturn));

#endif
