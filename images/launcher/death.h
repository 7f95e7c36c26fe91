/* SPDX-License-Identifier: Apache-2.0 */
/* Why a VMM is gone, on stderr. */
#ifndef CLEARPOD_DEATH_H
#define CLEARPOD_DEATH_H

#include "records.h"
#include "spec.h"

/* Those of the last lines in the console file `path` (NULL: there is none) that tell why. */
void death_show(const char *path);
/* Report why it ended with the wait status `status` before its agent said that the pod has; returns the pod's code. */
int death_explain(const struct launch_spec *spec, struct records *records, int status);

/* The exit code of a kernel of the image whose VMM ended with the wait status `status` and has said this at last; why, if nobody
 * has asked for the end, is reported. */
int death_of_kernel(const struct launch_spec *spec, int status, const char *output, bool was_asked);

#endif
