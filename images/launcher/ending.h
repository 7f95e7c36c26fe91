/* SPDX-License-Identifier: Apache-2.0 */
/* Why the VM of an image's kernel has ended, by its monitor's events: QEMU's own exit code does not show a reset. */
#ifndef CLEARPOD_ENDING_H
#define CLEARPOD_ENDING_H

#include <stddef.h>
#include <sys/types.h>

enum { ENDING_MAX = 512 }; /* the event of a panic and that of the end have some 150 bytes each */

/* The end of a monitor's output, terminated by 0: the reason of the VM's end comes last. */
struct ending {
    size_t bytes;
    char output[ENDING_MAX + 1];
};

/* Keep the end of it. Pure. */
void ending_take(struct ending *ending, const char *text, size_t size);
/* Read some of what there is: how much it was, 0: nothing more will come, less: nothing is there now. Never waits. */
ssize_t ending_read(struct ending *ending, int monitor);

#endif
