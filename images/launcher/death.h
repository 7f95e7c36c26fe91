/* SPDX-License-Identifier: Apache-2.0 */
/* Why a VMM is gone, on stderr. */
#ifndef CLEARPOD_DEATH_H
#define CLEARPOD_DEATH_H

#include "records.h"
#include "spec.h"

/* Those of the last lines in the console file `path` (NULL: there is none) that have the reason. */
void death_show(const char *path);
/* Report why it ended with the wait status `status` before its agent reported the pod's end; returns the pod's code. */
int death_explain(const struct launch_spec *spec, struct records *records, int status);

/* The exit code of a kernel of the image whose VMM ended with the wait status `status` after this last output; the reason
 * is reported unless the end was requested. */
int death_of_kernel(const struct launch_spec *spec, int status, const char *output, bool was_asked);

#endif
