/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes that all containers of the pod share: on its own disk, which outlives the VM, or in memory. Containers write to
 * them: no path is followed out of one.
 */
#ifndef CLEARPOD_VOLUMES_DISK_H
#define CLEARPOD_VOLUMES_DISK_H

#include "base/fault.h"

#include <stdbool.h>

/*
 * Bind at `place` what `text` names, which is made if it is absent: MODE UID GID NAME[/BELOW], behind the number of a
 * partition for one that `is_limited`. Changes `text`.
 */
int disk_volume(char *text, const char *place, bool is_limited, struct fault *why);
/*
 * Bind at `place` the tmpfs that `text` names, or what is below it, and mount it first if it is absent: BYTES MODE UID GID
 * NAME[/BELOW]. Unless it `is_new`, what is at `place` gets the size. Changes `text`.
 */
int tmpfs_volume(char *text, const char *place, bool is_new, struct fault *why);
/* Whether an earlier VM's containers had volumes there. */
bool disk_was_used(void);
/* Remove what those containers have left, in a process of its own: a tree may be large, and no caller waits for it. */
void disk_clean_later(void);

#endif
